"""The name that embedders and ``platziverse.tac`` import, whatever room the service lives in."""

from platziverse.daemon.options import Options
from platziverse.daemon.service import Daemon, makeService

__all__ = ["Daemon", "Options", "makeService"]
