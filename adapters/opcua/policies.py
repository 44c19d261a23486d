"""How channels may be secured, at our server and at a PLC's."""

from __future__ import annotations

from typing import Final

from asyncua import ua

PLAIN: Final = "None"
POLICIES: Final = {
    PLAIN: ua.SecurityPolicyType.NoSecurity,
    # Basic128Rsa15 and Basic256 rest on SHA-1 and are deprecated by OPC 10000-7: not offered.
    **{
        f"{policy}_{mode}": ua.SecurityPolicyType[f"{policy}_{mode}"]
        for policy in ("Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss")
        for mode in ("Sign", "SignAndEncrypt")
    },
}
