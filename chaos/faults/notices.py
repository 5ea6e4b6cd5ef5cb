"""A cloud announces that it takes the machine back, or its metadata server lies, hangs or says nonsense: `chaos.notices` on loopback."""

from __future__ import annotations

from chaos.notices import SERVERS, AwsServer, AzureServer, Fault, GceServer, in_place

__all__ = ["SERVERS", "AwsServer", "AzureServer", "Fault", "GceServer", "in_place"]
