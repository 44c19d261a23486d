"""Why a broker cannot be had, in one line that names the setting to look at."""

from __future__ import annotations

import ssl

_NOT_TRUSTED = "the broker's certificate is from no authority that we trust (mqtt.ca_file)"
_VERIFY_FAULTS = {  # X509_V_ERR_*, openssl/x509_vfy.h
    9: "the broker's certificate is not valid yet: is a clock wrong?",
    10: "the broker's certificate has expired",
    18: _NOT_TRUSTED,
    19: _NOT_TRUSTED,
    20: _NOT_TRUSTED,
    21: _NOT_TRUSTED,
}
_NO_TLS = "does the broker speak TLS on this port (mqtt.port, mqtt.tls)?"
_LOGIN_REFUSED = frozenset({"Not authorized", "Bad user name or password"})

_OVER_NO_MESSAGE = frozenset(
    {
        "Normal disconnection",
        "Server busy",
        "Server shutting down",
        "Keep alive timeout",
        "Session taken over",
        "Administrative action",
        "Use another server",
        "Server moved",
        "Connection rate exceeded",
        "Maximum connect time",
    }
)
"""Reasons to close a connection that lie in no message (MQTT 5 section 3.14.2.1); 3.1.1 has none at all."""


def handshake_fault(error: OSError) -> str:
    """Say why a TLS handshake failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        # of a wrong name OpenSSL says which one it looked for
        message = error.verify_message.rstrip(".")
        return _VERIFY_FAULTS.get(error.verify_code, f"the broker's certificate was not accepted: {message}")
    if isinstance(error, ssl.SSLError):
        _, is_alert, alert = (error.reason or "").partition("ALERT_")
        if is_alert:
            return f"the broker refused our client certificate (mqtt.cert_file): {alert.replace('_', ' ').lower()}"
        return f"no TLS connection ({(error.reason or str(error)).replace('_', ' ').lower()}); {_NO_TLS}"
    return f"no TLS connection ({error.strerror or error}); {_NO_TLS}"


def connack_fault(code: str) -> str:
    """Say why the broker refused the connection; `code` is the reason code's name."""
    hint = "; look at mqtt.username and mqtt.password_file" if code in _LOGIN_REFUSED else ""
    return f"connection refused by the broker: {code}{hint}"


def may_be_over_a_message(code: str) -> bool:
    """Tell whether a connection that ended with the reason code `code` may have been closed for what was sent on it."""
    return code not in _OVER_NO_MESSAGE
