"""Who may use the station's OPC UA server, and as what."""

from __future__ import annotations

from dataclasses import dataclass

from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.internal_server import InternalServer
from asyncua.server.user_managers import UserManager
from cryptography import x509

from adapters.accounts import Account, PasswordBook, Role
from adapters.opcua.trust import TrustedCertificates


@dataclass
class StationUser(User):
    """A logged-in client; asyncua's own role stays User, since its Admin may change the address space.

    account and certificate (DER): what let it in, where it had one.
    """

    writes: bool = False
    chooses_model: bool = False
    account: Account | None = None
    certificate: bytes | None = None


class StationUsers(UserManager):
    """Decides who gets a session. asyncua's own manager accepts anyone.

    Args:
        book: who has a password; None: nobody.
        anonymous: whether clients may come without one.
        plain: whether they may come over an unsecured channel.
        trusted: whose certificates are believed; None: anybody's.
    """

    def __init__(
        self, book: PasswordBook | None, *, anonymous: bool, plain: bool, trusted: TrustedCertificates | None
    ) -> None:
        self.book = book
        self._anonymous = anonymous
        self._plain = plain
        self.trusted = trusted

    def get_user(
        self,
        iserver: InternalServer,  # noqa: ARG002 - asyncua's signature
        username: str | None = None,
        password: str | None = None,
        certificate: bytes | None = None,
    ) -> StationUser | None:
        """Return the user, or None to refuse. `certificate` is the one the secure channel was opened with, as DER.

        It was `StationInternalServer.check_login` that looked at the password: argon2 must not hold up the event loop.
        """
        if not self._channel_allowed(certificate):
            return None
        if username is None:
            if not self._anonymous:
                return None
            return StationUser(UserRole.User, writes=True, chooses_model=True, certificate=certificate)
        account = None if self.book is None else self.book.verified(username, password or "")
        if account is None:
            return None
        return StationUser(
            UserRole.User,
            username,
            writes=account.role is not Role.OPERATOR,
            chooses_model=account.role is Role.ENGINEER,
            account=account,
            certificate=certificate,
        )

    def refresh(self) -> None:
        """Read users and trusted certificates again where they have changed; call on a thread."""
        if self.book is not None:
            self.book.refresh()
        if self.trusted is not None:
            self.trusted.refresh()

    def still_allow(self, user: User) -> bool:
        """Tell whether who was let in would be let in again, as the same."""
        if not isinstance(user, StationUser) or not self._channel_allowed(user.certificate):
            return False
        if user.account is None:
            return self._anonymous
        return self.book is not None and self.book.has(user.name, user.account)

    def are_same(self, one: User, other: User) -> bool:
        """Tell whether two logins are known to be of one user: of one name or, without names, of one certificate.

        OPC 10000-4, 5.13.7 asks of anonymous clients the same ApplicationUri over a secured channel. Anybody may write
        anybody's into a certificate of his own: it must be the very same. On an unsecured channel anybody can show it.
        """
        if not isinstance(one, StationUser) or not isinstance(other, StationUser):
            return False
        if one.account is not None and other.account is not None:
            return one.name == other.name
        is_anonymous = one.account is None and other.account is None
        return is_anonymous and not self._plain and bool(one.certificate) and one.certificate == other.certificate

    def _channel_allowed(self, certificate: bytes | None) -> bool:
        # asyncua opens an unsecured channel whatever the policies, and shows its certificate validator only the
        # certificate that CreateSession names, which need not be the one behind the channel. Hence both again here.
        if not certificate:
            return self._plain
        if self.trusted is None:
            return True
        try:
            return self.trusted.covers(x509.load_der_x509_certificate(certificate))
        except ValueError:
            return False
