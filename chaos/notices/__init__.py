"""The clouds' metadata servers as they are documented, on loopback, with every way in which an answer can go wrong."""

from __future__ import annotations

from chaos.notices.aws import AwsServer
from chaos.notices.azure import AzureServer
from chaos.notices.faults import Fault
from chaos.notices.gce import GceServer
from chaos.notices.in_place import in_place

SERVERS = {"aws": AwsServer, "gce": GceServer, "azure": AzureServer}

__all__ = ["SERVERS", "AwsServer", "AzureServer", "Fault", "GceServer", "in_place"]
