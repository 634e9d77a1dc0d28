"""Callers, tokens and users, on a real database."""

import asyncio
import math
import stat
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from fixture_types import MakeUser
from reactorcide.domain.accounts import Principal, Role, TokenKind, compose_token, hash_token
from reactorcide.domain.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    Misconfigured,
    NotFound,
    Unauthorized,
    Unavailable,
)
from reactorcide.domain.ids import is_id
from reactorcide.services.accounts import AccountService, MintedToken, UserChanges
from reactorcide.store.database import Database

FIRST_ADMIN = "0191f0f0-0000-7000-8000-000000000001"
NOBODY = "0191f0f0-0000-7000-8000-00000000dead"


@pytest.fixture
def service(database: Database) -> AccountService:
    return AccountService(database)


@pytest.fixture
async def admin(make_user: MakeUser) -> Principal:
    return await make_user(Role.ADMIN)


async def mint(
    service: AccountService,
    caller: Principal,
    *,
    name: str = "ci",
    expires_at: datetime | None = None,
    user_id: str | None = None,
    kind: TokenKind = TokenKind.USER,
) -> MintedToken:
    return await service.mint_token(caller, name=name, expires_at=expires_at, user_id=user_id, kind=kind)


async def execute(database: Database, statement: str, *parameters: object) -> None:
    async with database.transaction() as tx:
        await tx.execute(statement, parameters)


class TestAuthentication:
    async def test_a_minted_token_authenticates_its_user(
        self, service: AccountService, admin: Principal
    ) -> None:
        minted = await mint(service, admin)

        principal = await service.authenticate(minted.text)

        assert principal == Principal(
            admin.user_id, minted.token.token_id, TokenKind.USER, frozenset({Role.ADMIN})
        )

    async def test_a_worker_token_says_that_it_is_one(
        self, service: AccountService, admin: Principal
    ) -> None:
        minted = await mint(service, admin, kind=TokenKind.WORKER)

        principal = await service.authenticate(minted.text)

        assert principal.kind is TokenKind.WORKER

    async def test_any_text_whose_hash_is_stored_authenticates(
        self, service: AccountService, database: Database, admin: Principal
    ) -> None:
        await execute(database, "UPDATE api_tokens SET token_hash = %s", hash_token("of another age"))

        principal = await service.authenticate("of another age")

        assert principal == admin

    @pytest.mark.parametrize(
        "text", ["", "x", "rct_", "rct_" + "0" * 36, "\u20ac" * 40, "\ud800", "\x00", "x" * 1_000_000]
    )
    async def test_an_unknown_text_is_unauthorized(self, service: AccountService, text: str) -> None:
        with pytest.raises(Unauthorized):
            await service.authenticate(text)

    @pytest.mark.parametrize(
        "end",
        [
            "UPDATE api_tokens SET expires_at = now()",
            "UPDATE api_tokens SET is_active = false",
            "DELETE FROM api_tokens",
            "UPDATE users SET enabled = false",
            "DELETE FROM users",
        ],
    )
    async def test_auth_03_an_expired_deactivated_or_deleted_token_is_unauthorized(
        self, service: AccountService, database: Database, admin: Principal, end: str
    ) -> None:
        minted = await mint(service, admin)

        await execute(database, end)

        with pytest.raises(Unauthorized):
            await service.authenticate(minted.text)

    async def test_auth_03_a_revoked_token_opens_nothing_from_the_answer_on(
        self, service: AccountService, database: Database, admin: Principal
    ) -> None:
        minted = await mint(service, admin)
        elsewhere = AccountService(database)
        await elsewhere.authenticate(minted.text)

        await service.revoke_token(admin, minted.token.token_id)

        with pytest.raises(Unauthorized):
            await elsewhere.authenticate(minted.text)

    async def test_callers_with_the_same_token_at_the_same_time_are_all_let_in(
        self, service: AccountService, admin: Principal
    ) -> None:
        minted = await mint(service, admin)

        found = await asyncio.gather(*(service.authenticate(minted.text) for _ in range(50)))

        assert {principal.token_id for principal in found} == {minted.token.token_id}

    async def test_a_caller_who_leaves_takes_nothing_from_one_with_the_same_token(
        self, service: AccountService, admin: Principal
    ) -> None:
        minted = await mint(service, admin)
        leaving, staying = (asyncio.create_task(service.authenticate(minted.text)) for _ in range(2))
        await asyncio.sleep(0)

        leaving.cancel()

        assert (await staying).token_id == minted.token.token_id

    async def test_auth_04_the_database_holds_a_hash_and_not_the_text(
        self, service: AccountService, database: Database, admin: Principal
    ) -> None:
        minted = await mint(service, admin)

        rows = await database.read("SELECT api_tokens::text AS held, token_hash FROM api_tokens")

        assert hash_token(minted.text) in {row["token_hash"] for row in rows}
        assert not any(minted.text in row["held"] for row in rows)

    def test_auth_04_a_token_has_178_random_bits(self) -> None:
        first_characters = Counter(compose_token(bytes([byte] * 30))[4] for byte in range(248))

        assert len(first_characters) == 62
        assert len(set(first_characters.values())) == 1
        assert 30 * math.log2(62) >= 178

    async def test_auth_04_no_log_line_and_no_repr_holds_a_token(
        self, service: AccountService, admin: Principal, capfd: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        minted = await mint(service, admin)
        await service.bootstrap_admin(FIRST_ADMIN, tmp_path / "admin-token")
        await service.authenticate(minted.text)
        await service.revoke_token(admin, minted.token.token_id)

        told = repr(minted) + "".join(capfd.readouterr())

        assert minted.token.token_id in told
        assert minted.text not in told
        assert (tmp_path / "admin-token").read_text().strip() not in told


class TestWithoutDatabase:
    """S13: what cannot be told is neither unauthorized nor absent."""

    @pytest.fixture
    async def service(self, tmp_path: Path) -> AsyncIterator[AccountService]:
        database = await Database.open(f"postgresql:///x?host={tmp_path}", size=2)
        yield AccountService(database)
        await database.close()

    async def test_db_08_a_token_is_not_called_invalid(self, service: AccountService) -> None:
        with pytest.raises(Unavailable):
            await service.authenticate("a token that may well be right")

    async def test_db_08_a_user_is_not_called_absent(self, service: AccountService) -> None:
        with pytest.raises(Unavailable):
            await service.get_user(FIRST_ADMIN)

    async def test_db_08_a_token_is_not_called_revoked(self, service: AccountService) -> None:
        caller = Principal(FIRST_ADMIN, NOBODY, TokenKind.USER, frozenset({Role.ADMIN}))

        with pytest.raises(Unavailable):
            await service.revoke_token(caller, NOBODY)


class TestLastUse:
    async def last_use(self, service: AccountService, caller: Principal, token_id: str) -> datetime | None:
        tokens = await service.list_tokens(caller)
        return next(token.last_used_at for token in tokens if token.token_id == token_id)

    async def test_the_last_use_is_written_when_flushed(
        self, service: AccountService, admin: Principal
    ) -> None:
        minted = await mint(service, admin)
        await service.authenticate(minted.text)
        before = await self.last_use(service, admin, minted.token.token_id)

        await service.flush_last_used()

        written = await self.last_use(service, admin, minted.token.token_id)
        assert before is None
        assert written is not None
        assert abs(datetime.now(UTC) - written) < timedelta(seconds=30)

    async def test_a_use_within_a_minute_is_not_written_again(
        self, service: AccountService, admin: Principal
    ) -> None:
        minted = await mint(service, admin)
        await service.authenticate(minted.text)
        await service.flush_last_used()
        written = await self.last_use(service, admin, minted.token.token_id)
        await service.authenticate(minted.text)

        await service.flush_last_used()

        assert await self.last_use(service, admin, minted.token.token_id) == written

    async def test_a_use_of_a_token_that_is_gone_harms_no_other(
        self, service: AccountService, admin: Principal
    ) -> None:
        gone, kept = await mint(service, admin), await mint(service, admin)
        await service.authenticate(gone.text)
        await service.authenticate(kept.text)
        await service.revoke_token(admin, gone.token.token_id)

        await service.flush_last_used()

        assert await self.last_use(service, admin, kept.token.token_id) is not None


class TestTokens:
    async def test_auth_06_only_admins_mint_tokens(
        self, service: AccountService, make_user: MakeUser
    ) -> None:
        for role in (Role.USER, Role.TASK_ADMIN, Role.SUPPORT):
            with pytest.raises(Forbidden):
                await mint(service, await make_user(role))

    async def test_a_worker_token_of_an_admin_is_no_admin(
        self, service: AccountService, make_user: MakeUser
    ) -> None:
        caller = await make_user(Role.ADMIN, kind=TokenKind.WORKER)

        with pytest.raises(Forbidden):
            await mint(service, caller)

    async def test_an_admin_mints_for_another_user(
        self, service: AccountService, admin: Principal, make_user: MakeUser
    ) -> None:
        user = await make_user()

        minted = await mint(service, admin, user_id=user.user_id)

        assert (await service.authenticate(minted.text)).user_id == user.user_id

    async def test_auth_06_a_token_for_an_unknown_user_is_refused(
        self, service: AccountService, admin: Principal
    ) -> None:
        with pytest.raises(NotFound):
            await mint(service, admin, user_id=NOBODY)

    @pytest.mark.parametrize(
        ("values", "pointer"),
        [
            ({"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, "/expires_at"),
            ({"expires_at": datetime(2999, 1, 1)}, "/expires_at"),  # noqa: DTZ001 - that is the fault
            ({"expires_at": datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-5)))}, "/expires_at"),
            ({"name": ""}, "/name"),
            ({"name": "x" * 256}, "/name"),
            ({"name": "a\x00b"}, "/name"),
            ({"name": "a\ud800b"}, "/name"),
            ({"user_id": "me"}, "/user_id"),
        ],
    )
    async def test_auth_06_what_is_wrong_with_a_token_is_named(
        self, service: AccountService, admin: Principal, values: dict, pointer: str
    ) -> None:
        with pytest.raises(InvalidInput) as refused:
            await mint(service, admin, **values)

        assert [fault.pointer for fault in refused.value.faults] == [pointer]
        assert len(await service.list_tokens(admin)) == 1

    async def test_an_expiry_is_kept_to_the_microsecond(
        self, service: AccountService, admin: Principal
    ) -> None:
        end = datetime.now(timezone(timedelta(hours=2))) + timedelta(days=1)

        minted = await mint(service, admin, expires_at=end)

        assert minted.token.expires_at == end
        assert (await service.authenticate(minted.text)).user_id == admin.user_id

    async def test_tokens_are_listed_to_their_owner_and_to_admins(
        self, service: AccountService, admin: Principal, make_user: MakeUser
    ) -> None:
        user, other = await make_user(), await make_user()

        own = await service.list_tokens(user)

        assert [token.token_id for token in own] == [user.token_id]
        assert await service.list_tokens(admin, user.user_id) == own
        with pytest.raises(Forbidden):
            await service.list_tokens(other, user.user_id)
        with pytest.raises(NotFound):
            await service.list_tokens(admin, NOBODY)

    async def test_a_foreign_token_looks_like_a_missing_one_to_a_non_admin(
        self, service: AccountService, make_user: MakeUser
    ) -> None:
        user, other = await make_user(), await make_user()

        for token_id in (other.token_id, NOBODY, "no id"):
            with pytest.raises(NotFound):
                await service.revoke_token(user, token_id)

        assert len(await service.list_tokens(other)) == 1

    async def test_an_admin_revokes_any_token(
        self, service: AccountService, admin: Principal, make_user: MakeUser
    ) -> None:
        user = await make_user()

        await service.revoke_token(admin, user.token_id)

        assert await service.list_tokens(user) == []


class TestUsers:
    async def test_a_new_user_is_found_and_listed(self, service: AccountService, admin: Principal) -> None:
        user = await service.create_user(
            admin, username="eva", email="eva@example.org", roles=["user", "support"], enabled=True
        )

        assert is_id(user.user_id)
        assert user.roles == {Role.USER, Role.SUPPORT}
        assert await service.get_user(user.user_id) == user
        assert user in await service.list_users(admin)

    async def test_everything_wrong_with_a_user_is_named_at_once(
        self, service: AccountService, admin: Principal
    ) -> None:
        with pytest.raises(InvalidInput) as refused:
            await service.create_user(
                admin, username="\n", email="nowhere", roles=["user", "king"], enabled=True
            )

        assert [fault.pointer for fault in refused.value.faults] == ["/username", "/email", "/roles/1"]

    async def test_a_user_without_a_role_is_refused(self, service: AccountService, admin: Principal) -> None:
        with pytest.raises(InvalidInput):
            await service.create_user(admin, username="eva", email=None, roles=[], enabled=True)

    async def test_two_users_cannot_share_a_name(self, service: AccountService, admin: Principal) -> None:
        first = await service.create_user(admin, username="eva", email=None, roles=["user"], enabled=True)
        second = await service.create_user(admin, username="adam", email=None, roles=["user"], enabled=True)

        with pytest.raises(Conflict):
            await service.create_user(admin, username="eva", email=None, roles=["user"], enabled=True)
        with pytest.raises(Conflict):
            await service.update_user(admin, second.user_id, UserChanges(username="eva"))

        assert (await service.get_user(first.user_id)).username == "eva"

    async def test_a_change_leaves_the_rest_as_it_was(
        self, service: AccountService, admin: Principal
    ) -> None:
        user = await service.create_user(admin, username="eva", email="e@x", roles=["user"], enabled=True)

        changed = await service.update_user(admin, user.user_id, UserChanges(enabled=False))

        assert not changed.enabled
        assert (changed.username, changed.email, changed.roles) == (user.username, user.email, user.roles)
        assert changed.updated_at > user.updated_at

    async def test_an_empty_email_takes_it_away(self, service: AccountService, admin: Principal) -> None:
        user = await service.create_user(admin, username="eva", email="e@x", roles=["user"], enabled=True)

        changed = await service.update_user(admin, user.user_id, UserChanges(email=""))

        assert changed.email is None

    @pytest.mark.parametrize("user_id", [NOBODY, "no id"])
    async def test_an_unknown_user_cannot_be_changed(
        self, service: AccountService, admin: Principal, user_id: str
    ) -> None:
        with pytest.raises(NotFound):
            await service.update_user(admin, user_id, UserChanges(username="eva"))

    async def test_only_admins_care_for_users(self, service: AccountService, make_user: MakeUser) -> None:
        user = await make_user()

        with pytest.raises(Forbidden):
            await service.create_user(user, username="eva", email=None, roles=["admin"], enabled=True)
        with pytest.raises(Forbidden):
            await service.list_users(user)
        with pytest.raises(Forbidden):
            await service.update_user(user, user.user_id, UserChanges(roles=["admin"]))

    @pytest.mark.parametrize("changes", [UserChanges(enabled=False), UserChanges(roles=["user"])])
    async def test_an_admin_cannot_lock_himself_out(
        self, service: AccountService, admin: Principal, changes: UserChanges
    ) -> None:
        with pytest.raises(Conflict):
            await service.update_user(admin, admin.user_id, changes)

    async def test_admins_who_demote_each_other_at_once_leave_one(
        self, service: AccountService, make_user: MakeUser
    ) -> None:
        one, other = await make_user(Role.ADMIN), await make_user(Role.SYSTEM_ADMIN)

        results = await asyncio.gather(
            service.update_user(one, other.user_id, UserChanges(roles=["user"])),
            service.update_user(other, one.user_id, UserChanges(enabled=False)),
            return_exceptions=True,
        )

        assert sorted(isinstance(result, Forbidden) for result in results) == [False, True]


class TestBootstrap:
    async def test_auth_14_the_first_token_is_in_an_owner_only_file_and_opens_all(
        self, service: AccountService, tmp_path: Path
    ) -> None:
        file = tmp_path / "data" / "admin-token"

        token_id = await service.bootstrap_admin(FIRST_ADMIN, file)

        principal = await service.authenticate(file.read_text().strip())
        assert (principal.user_id, principal.token_id) == (FIRST_ADMIN, token_id)
        assert principal.is_admin
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert list(file.parent.iterdir()) == [file]

    async def test_auth_14_a_restart_makes_no_second_token(
        self, service: AccountService, database: Database, tmp_path: Path
    ) -> None:
        file = tmp_path / "admin-token"
        await service.bootstrap_admin(FIRST_ADMIN, file)
        text = file.read_text()

        again = [await service.bootstrap_admin(FIRST_ADMIN, file) for _ in range(2)]

        assert again == [None, None]
        assert file.read_text() == text
        assert await database.read("SELECT count(*) AS tokens FROM api_tokens") == [{"tokens": 1}]

    async def test_auth_14_of_processes_that_race_one_makes_the_admin_and_its_token_works(
        self, dsn: str, tmp_path: Path
    ) -> None:
        file = tmp_path / "admin-token"
        databases = [await Database.open(dsn) for _ in range(4)]
        services = [AccountService(database) for database in databases]

        made = await asyncio.gather(*(service.bootstrap_admin(FIRST_ADMIN, file) for service in services))

        principal = await services[0].authenticate(file.read_text().strip())
        assert [token_id for token_id in made if token_id] == [principal.token_id]
        for database in databases:
            await database.close()

    async def test_a_file_that_cannot_be_written_leaves_no_user(
        self, service: AccountService, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()

        with pytest.raises(Misconfigured):
            await service.bootstrap_admin(FIRST_ADMIN, tmp_path / "file" / "admin-token")

        with pytest.raises(NotFound):
            await service.get_user(FIRST_ADMIN)

    async def test_a_taken_name_does_not_hinder_the_first_admin(
        self, service: AccountService, make_user: MakeUser, tmp_path: Path
    ) -> None:
        await make_user(username="admin")

        token_id = await service.bootstrap_admin(FIRST_ADMIN, tmp_path / "admin-token")

        assert token_id is not None
