"""The table of transitions."""

from itertools import product

from reactorcide.domain.status import FINAL, READY, TRANSITIONS, JobStatus, sources_of


def test_every_status_stands_in_the_table() -> None:
    assert set(TRANSITIONS) == set(JobStatus)


def test_a_final_status_leads_nowhere() -> None:
    assert {JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.TIMEOUT} == FINAL
    assert all(not TRANSITIONS[status] for status in FINAL)


def test_nothing_becomes_submitted_and_nothing_becomes_itself() -> None:
    assert all(
        JobStatus.SUBMITTED not in targets and source not in targets
        for source, targets in TRANSITIONS.items()
    )


def test_only_a_running_job_completes() -> None:
    assert sources_of(JobStatus.COMPLETED) == ["running"]


def test_every_status_reaches_an_end() -> None:
    reached = set(FINAL)
    for _ in JobStatus:
        reached |= {status for status in JobStatus if TRANSITIONS[status] & reached}

    assert reached == set(JobStatus)


def test_sources_of_repeats_the_table() -> None:
    for source, target in product(JobStatus, JobStatus):
        assert (source.value in sources_of(target)) == (target in TRANSITIONS[source])


def test_a_ready_job_is_not_final() -> None:
    assert not READY & FINAL
