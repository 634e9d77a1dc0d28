"""Transactions on a real server, and what callers see while it is away."""

from reactorcide.domain.accounts import Role
from reactorcide.store.database import Database


async def test_a_transaction_is_committed_at_the_end_of_its_block(database: Database, make_user) -> None:
    admin = await make_user(Role.ADMIN)

    async with database.transaction() as tx:
        row = await (await tx.execute("SELECT user_id, roles FROM users")).fetchone()

    assert row == {"user_id": admin.user_id, "roles": ["admin"]}
