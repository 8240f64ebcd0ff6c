"""docs/second-day.rst: the index of a large database is made before the upgrade, which then finds it."""

import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks

from platziverse.postgres.migrate import migrate
from tests.pages import blocks
from tests.postgres.scratch import open_dir
from tests.postgres.test_migrate import INDEXES, KNOWN_STEPS, DatabaseCase

Steps = Generator["Deferred[Any]", Any, None]
BEFORE = 9
#: How the definition of the index ends that has no number.
OLD = '("agentId", type, "createdAt")'
#: Of what serves charts of rows: the number of the file that holds each index, and whether it may be used.
WITH_NUMBERS = """
SELECT indexrelid, indisvalid FROM pg_index JOIN pg_class ON oid = indexrelid
WHERE relkind = 'i' AND pg_get_indexdef(indexrelid) LIKE '%INCLUDE (number)' ORDER BY indexrelid"""


class IndexMadeAhead(DatabaseCase):
    @inlineCallbacks
    def test_the_upgrade_takes_the_indexes_that_are_there_and_is_like_any_other(self) -> Steps:
        before = Path(open_dir())
        self.addCleanup(shutil.rmtree, before)
        for step in KNOWN_STEPS[:BEFORE]:
            (before / step.name).write_text(step.sql)
        yield migrate(self.dsn, reactor, schema=before)
        month = "'metrics', 'metrics_2031_01', 'createdAt', '2031-01-01', '2031-02-01'"
        self.execute(f"SELECT platziverse_add_partition({month})")
        statement, executed = blocks("second-day.rst", "sql")[0].split("\\")
        self.assertEqual(executed, "gexec\n")
        made = [line for (line,) in self.execute(statement)]
        for line in made:
            self.execute(line)
        ahead = self.execute(WITH_NUMBERS)
        self.assertEqual([valid for _, valid in ahead], [True] * len(made))
        self.assertGreater(len(made), 1)
        yield migrate(self.dsn, reactor)
        self.assertEqual(self.execute(WITH_NUMBERS), ahead)
        of_metrics = [index for table, _, index in self.execute(INDEXES) if table.startswith("metrics")]
        old = [index for index in of_metrics if index.endswith(OLD)]
        self.assertEqual(old, [])
