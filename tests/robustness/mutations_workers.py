"""Bugs in what runs jobs: the worker, its spool, the guardian, the sandbox, the source, the masking."""

from mutations_trial import Mutation

_CRASHES = "worker/test_worker_crashes.py"
_ENDS = "runnerlib/test_job_ends.py"
_HOSTILE = "runnerlib/test_hostile_repositories.py"
_GIT = "runnerlib/test_git_source.py"
_DURABLE = "robustness/test_durable_writes.py"

WORKERS = (
    Mutation(
        "worker_claims_before_it_cleans",
        "what a former self left runs on beside the next jobs",
        "reactorcide/worker/loop.py",
        "        await self._clean_host(None)\n        leftovers",
        "        leftovers",
        (f"{_CRASHES}::test_wrk_11_what_a_former_self_left_is_gone_before_the_first_claim",),
    ),
    Mutation(
        "worker_forgets_its_spool",
        "a result that was not delivered before a crash is lost",
        "reactorcide/worker/loop.py",
        "self._register([spool.claim for spool in leftovers if has_outcome(spool)])",
        "self._register([])",
        (f"{_CRASHES}::test_wrk_05_a_result_that_was_not_delivered_is_delivered_by_the_next_boot",),
    ),
    Mutation(
        "worker_asks_for_too_much",
        "a worker claims one job more than it has slots free",
        "reactorcide/worker/loop.py",
        "await self._ask_for_work(len(self._free_slots))",
        "await self._ask_for_work(len(self._free_slots) + 1)",
        (f"{_CRASHES}::test_a_worker_claims_no_more_than_it_can_run",),
    ),
    Mutation(
        "draining_worker_claims_on",
        "a worker that is to end takes further jobs",
        "reactorcide/worker/loop.py",
        "        return [] if asking.cancelled() else asking.result()",
        "        return await self._gateway.claim(self._worker_id, free, timedelta(seconds=5))"
        " if asking.cancelled() else asking.result()",
        (f"{_CRASHES}::test_wrk_08_a_draining_worker_ends_its_job_beyond_the_lease_and_takes_no_other",),
    ),
    Mutation(
        "renewal_counts_from_its_arrival",
        "a sandbox outlives its lease by as long as a heartbeat was on its way",
        "reactorcide/worker/heart.py",
        "attempt.renew(sent_at)",
        "attempt.renew(time.monotonic())",
        ("worker/test_worker_heart.py::test_a_renewal_counts_from_when_it_was_sent",),
    ),
    Mutation(
        "abandon_is_not_obeyed",
        "a job that is no longer the worker's runs on",
        "reactorcide/worker/heart.py",
        'if answer.order != "go_on":',
        'if answer.order not in ("go_on", "abandon"):',
        ("worker/test_worker_attempts.py::test_a_job_that_is_not_the_workers_any_more_is_killed",),
    ),
    Mutation(
        "retry_job_outlives_its_lease",
        "attempt n of a job that may run again is alive when n + 1 starts",
        "reactorcide/worker/attempt.py",
        "fence = 0.7 * started.lease_seconds if",
        "fence = 4 * started.lease_seconds if",
        (
            f"{_CRASHES}"
            "::test_wrk_04_a_job_that_may_run_again_is_dead_before_the_lease_of_a_stopped_worker_is_over",
        ),
    ),
    Mutation(
        "decided_result_is_not_kept",
        "after a crash the next boot says other than this one decided",
        "reactorcide/worker/spool.py",
        '        part.replace(self.path / "result.json")\n',
        "",
        ("worker/test_worker_spool.py::test_a_later_process_finds_what_was_left_with_its_claim",),
    ),
    Mutation(
        "decided_result_is_not_synced",
        "a power cut leaves an empty result",
        "reactorcide/worker/spool.py",
        "            os.fsync(file.fileno())\n",
        "",
        (f"{_DURABLE}::test_c20_a_result_that_the_worker_decided_is_synced_placed_and_its_directory_synced",),
    ),
    Mutation(
        "runner_result_is_not_synced",
        "a power cut leaves an empty result",
        "runnerlib/spool.py",
        "        os.fsync(self._result)\n",
        "",
        (f"{_DURABLE}::test_c20_a_runners_log_and_index_are_synced_before_its_result_is_placed",),
    ),
    Mutation(
        "shipper_goes_on_after_a_gap",
        "bytes that the coordinator never got are never sent again",
        "reactorcide/worker/shipping.py",
        "                await asyncio.to_thread(self._reader.rewind, gap.length)\n",
        "",
        ("worker/test_worker_shipping.py::test_log_21_a_gap_is_filled_from_the_spool",),
    ),
    Mutation(
        "guardian_ignores_the_end_of_its_worker",
        "a job outlives its worker",
        "runnerlib/guardian.py",
        "                self._control = None\n                self._stop_at_once(Verdict.WORKER_DIED)\n",
        "                self._control = None\n",
        (
            f"{_ENDS}::test_a_job_dies_with_its_worker",
            f"{_CRASHES}::test_wrk_01_a_killed_worker_leaves_no_sandbox_and_its_job_ends_as_lost",
        ),
    ),
    Mutation(
        "guardian_ignores_silence",
        "a job outlives a worker that cannot renew its lease",
        "runnerlib/guardian.py",
        "if self._fence_left() <= 0:",
        "if self._fence_left() <= -1e9:",
        (f"{_ENDS}::test_a_job_whose_lease_is_not_renewed_is_killed",),
    ),
    Mutation(
        "guardian_forgets_what_the_start_took",
        "the first lease of a job lasts longer than the coordinator thinks",
        "runnerlib/guardian.py",
        "self._renewed_at = _lease_clock() - fence_used_seconds",
        "self._renewed_at = _lease_clock()",
        (f"{_ENDS}::test_what_the_start_took_counts_against_the_first_lease",),
    ),
    Mutation(
        "kill_waits_for_the_grace_of_a_cancel",
        "a stronger order does not override a weaker one",
        "runnerlib/guardian.py",
        "while not self._is_kill_ordered and (left",
        "while (left",
        (f"{_ENDS}::test_kill_overrides_a_cancel_that_is_under_way",),
    ),
    Mutation(
        "guardian_never_kills",
        "a job that ignores TERM goes on",
        "runnerlib/guardian.py",
        "        job.kill()\n        job.wait(_END_SECONDS)\n",
        "        job.wait(60)\n",
        (f"{_ENDS}::test_run_10_a_job_that_ignores_term_is_killed_after_the_grace_time",),
    ),
    Mutation(
        "timeout_is_ignored",
        "a job runs as long as it likes",
        "runnerlib/guardian.py",
        "if now >= self._deadline:",
        "if now >= self._deadline + 3600:",
        (f"{_ENDS}::test_run_11_a_job_that_runs_too_long_is_ended_and_its_log_kept",),
    ),
    Mutation(
        "sandbox_without_pid_namespace",
        "a job sees the processes of the host, and its daemons outlive it",
        "runnerlib/executors/bubblewrap.py",
        '"--unshare-user", "--unshare-pid", "--unshare-ipc"',
        '"--unshare-user", "--unshare-ipc"',
        ("runnerlib/test_job_isolation.py::test_run_01_a_job_sees_no_process_and_no_file_of_the_host",),
    ),
    Mutation(
        "sandbox_with_network",
        "a job that is to have no network reaches the host's",
        "runnerlib/executors/bubblewrap.py",
        'options.append("--unshare-net")',
        "pass",
        ("runnerlib/test_job_isolation.py::test_run_03_a_job_without_network_reaches_no_port_of_the_host",),
    ),
    Mutation(
        "git_without_dashes_at_the_fetch",
        "a ref that begins with a dash is an option to git fetch",
        "runnerlib/git.py",
        '"--depth=1", "--", "origin", source.ref or "HEAD"',
        '"--depth=1", "origin", source.ref or "HEAD"',
        (f"{_GIT}::test_s7_whatever_came_from_outside_stands_behind_the_options_of_git",),
    ),
    Mutation(
        "git_without_dashes_at_the_remote",
        "a URL that begins with a dash is an option to git remote",
        "runnerlib/git.py",
        '"remote", "add", "--", "origin", source.url',
        '"remote", "add", "origin", source.url',
        (f"{_GIT}::test_s7_whatever_came_from_outside_stands_behind_the_options_of_git",),
    ),
    Mutation(
        "git_follows_redirects",
        "a server sends git, and the credential, to an address that was not judged",
        "runnerlib/git_process.py",
        '"http.followRedirects": "false"',
        '"http.followRedirects": "true"',
        (f"{_GIT}::test_src_09_a_redirect_is_not_followed",),
    ),
    Mutation(
        "git_checks_out_unseen",
        "a small pack stands for more files than any host has memory for",
        "runnerlib/git.py",
        "        git.survey(sha)\n",
        "",
        (f"{_HOSTILE}::test_src_13_a_commit_that_is_too_large_is_refused_before_a_file_of_it_is_written",),
    ),
    Mutation(
        "registration_answers_first",
        "a secret is shown that was registered just before",
        "runnerlib/registration.py",
        "        self._masker.add(new)\n",
        "        threading.Timer(0.005, self._masker.add, [new]).start()\n",
        (
            "runnerlib/test_registration_jobs.py"
            "::test_log_11_what_is_registered_and_printed_at_once_is_shown_nowhere",
        ),
    ),
    Mutation(
        "masking_holds_nothing_back",
        "a secret that comes in two pieces is shown",
        "runnerlib/masking.py",
        "        runs, keep = self._masker.scan(data)\n        if shown:",
        "        runs, keep = self._masker.scan(data)[0], len(data)\n        if shown:",
        ("runnerlib/test_masking.py::test_log_02_a_secret_is_masked_however_it_is_cut",),
    ),
    Mutation(
        "masking_by_the_line",
        "a secret of several lines is shown",
        "runnerlib/masking.py",
        "        if len(data) <= _SLICE_BYTES:\n            return self._advance(data)\n",
        '        if b"\\n" in data:\n'
        '            return b"".join(self._masker.mask(line) for line in data.splitlines(keepends=True))\n'
        "        if len(data) <= _SLICE_BYTES:\n            return self._advance(data)\n",
        (
            "runnerlib/test_masking.py::test_log_05_a_key_of_several_lines_is_masked_whole_and_by_the_line",
            "runnerlib/test_masking.py::test_log_02_a_secret_is_masked_however_it_is_cut",
        ),
    ),
)
