"""How many wrong tokens an address may send: a bounded memory of those who fail to authenticate.

Each address has a bucket of failures that fills up again with time. Who has emptied it hears 429 in place
of 401; who goes on all the same is, from some debt on, not even looked up in the database. Tokens that
were good before are always looked up: many callers may share an address with the one who floods.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address

from reactorcide.domain.accounts import hash_token
from reactorcide.domain.errors import ReactorcideError

BURST = 50
"""So many failures in a row are still answered with 401."""
REFILL_PER_SECOND = 5.0
DEBT = 50
"""Who is so many failures beyond the burst is not looked up any more."""
MOST_ADDRESSES = 10_000
MOST_TOKENS = 10_000
_IPV6_SITE_BITS = 64
"""One caller commonly has all the addresses of such a network."""


class RateLimited(ReactorcideError):
    """The caller has failed too often of late."""

    code = "rate_limited"

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__("too many calls with a wrong token from this address")
        self.retry_after_seconds = retry_after_seconds


@dataclass
class _Bucket:
    left: float
    at: float


class FailureLimits:
    """Counts failed authentications by address.

    Args:
        monotonic: seconds that never go back.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def check(self, host: str, token: str) -> None:
        """Let a token be looked up.

        Raises:
            RateLimited: the address floods us, and the token was not good before.
        """
        bucket = self._find(_site_of(host))
        if bucket is not None and bucket.left <= -DEBT and hash_token(token) not in self._known:
            raise RateLimited(_retry_after(bucket))

    def note_failure(self, host: str) -> None:
        """Count a wrong token.

        Raises:
            RateLimited: there were too many, and this is the answer to give.
        """
        site = _site_of(host)
        bucket = self._find(site) or self._buckets.setdefault(site, _Bucket(BURST, self._monotonic()))
        bucket.left -= 1
        self._buckets.move_to_end(site)
        while len(self._buckets) > MOST_ADDRESSES:
            self._buckets.popitem(last=False)
        if bucket.left < 0:
            raise RateLimited(_retry_after(bucket))

    def note_success(self, token: str) -> None:
        """Remember a good token, as its hash."""
        known = hash_token(token)
        self._known[known] = None
        self._known.move_to_end(known)
        while len(self._known) > MOST_TOKENS:
            self._known.popitem(last=False)

    def _find(self, site: str) -> _Bucket | None:
        """Return the bucket of an address, refilled; one that is full again is forgotten."""
        bucket = self._buckets.get(site)
        if bucket is None:
            return None
        now = self._monotonic()
        bucket.left += (now - bucket.at) * REFILL_PER_SECOND
        bucket.at = now
        if bucket.left >= BURST:
            del self._buckets[site]
            return None
        return bucket


def _site_of(host: str) -> str:
    """Return what counts as one caller: an IPv4 address, or a network of IPv6 addresses."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host[:64]
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((address, _IPV6_SITE_BITS), strict=False))


def _retry_after(bucket: _Bucket) -> int:
    return max(1, math.ceil((1 - bucket.left) / REFILL_PER_SECOND))
