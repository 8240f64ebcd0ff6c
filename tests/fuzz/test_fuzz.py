"""A short run of the fuzz targets, always with the same seed; ``make fuzz N=…`` is the long one."""

from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz.__main__ import main


class Short(SynchronousTestCase):
    def test_twenty_thousand_mutations_find_nothing(self) -> None:
        self.assertEqual(main(20_000, 1), 0)
