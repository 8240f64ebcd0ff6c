"""Entries that wait while the clock turns out to have been behind."""

from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.model import Agent, Departure, Metric, Rejection, Report, move

AGENT = Agent("a", "", "a", "", 0)


class Moving(SynchronousTestCase):
    def test_a_report_moves_with_its_rejections(self) -> None:
        parts = [Rejection("t", "c", b"", reason, 100.0) for reason in ("", "one metric")]
        report = Report(AGENT, [Metric("m", "1")], 100.0, parts[0], measured=90.0, rejections=parts[1:])
        move(report, 5.0)
        self.assertEqual((report.arrived, report.measured, report.moment), (105.0, 90.0, 90.0))
        self.assertEqual(Report(AGENT, [], 100.0).moment, 100.0)
        self.assertEqual([part.arrived for part in parts], [105.0, 105.0])

    def test_a_time_that_was_put_in_the_place_of_the_agents_moves_too(self) -> None:
        report = Report(AGENT, [], 100.0, measured=100.0, measured_adjusted=True)
        move(report, 5.0)
        self.assertEqual(report.measured, 105.0)

    def test_an_agent_whose_clock_was_as_wrong_as_ours_has_the_time_of_arrival(self) -> None:
        """Row 450: both began in 1970."""
        report = Report(AGENT, [], 100.0, measured=90.0)
        move(report, 5e8)
        self.assertEqual((report.measured, report.measured_adjusted), (5e8 + 100.0, True))

    def test_a_rejection_moves_and_a_departure_has_no_time(self) -> None:
        rejection, departure = Rejection("t", "c", b"", "why", 100.0), Departure("a")
        move(rejection, 5.0)
        move(departure, 5.0)
        self.assertEqual((rejection.arrived, departure), (105.0, Departure("a")))
