"""The API reference: it is made without a warning, and shows what is public and nothing else."""

import importlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

ROOT = Path(__file__).parent.parent
#: What embedders and authors of handlers import.
PUBLIC = (
    "platziverse.agents.interfaces",
    "platziverse.agents.model",
    "platziverse.broker.interfaces",
    "platziverse.broker.reasons",
    "platziverse.config",
    "platziverse.errors",
    "platziverse.mqtt.packets",
    "platziverse.service",
    "platziverse.testing",
)


class Reference(SynchronousTestCase):
    def test_it_shows_what_is_public_and_nothing_else(self) -> None:
        program = shutil.which("pydoctor", path=str(Path(sys.executable).parent))
        if program is None:
            raise SkipTest("pydoctor is not installed")
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [program, "--quiet", f"--html-output={folder}"], cwd=ROOT, capture_output=True, text=True
            )
            self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))
            pages = {path.stem: path.read_text() for path in Path(folder).glob("platziverse*.html")}
        for module in PUBLIC:
            names = importlib.import_module(module).__all__
            self.assertEqual([name for name in names if name not in pages[module]], [], module)
        rooms = {page.split(".")[1] for page in pages if "." in page}
        self.assertEqual(rooms, {module.split(".")[1] for module in PUBLIC})
        for hidden in (
            "BatchWriter",
            "SniffingFactory",
            "Outbox",
            "AgentHandlers",
            "Departure",
            "OpenAuthority",
        ):
            self.assertFalse([page for page in pages if page.endswith(f".{hidden}")])
        self.assertNotIn("_begin", pages["platziverse.service.Daemon"], "private names are shown")
