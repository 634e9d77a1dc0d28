"""What a job's answer tells of where its newest attempt ran, and all that it takes to run it again."""

from dataclasses import replace

from api_people import Api, Person

from job_desk import outcome
from reactorcide.api.schemas import JobBody
from reactorcide.domain.jobs import AttemptLimits

pytest_plugins = ["api_fixtures"]
DIGEST = f"sha256:{'ab' * 32}"


async def test_what_an_attempt_ran_in_is_told_once_it_has_ended(person: Person, api: Api) -> None:
    job_id = (await person.submit())["job_id"]
    started = await api.start_next()
    before = (await person.get(f"/api/v1/jobs/{job_id}")).json()
    limits = AttemptLimits(60, "none", memory_mb=512, cpu=0.5)

    await api.attempts.finish(
        started.claim, replace(outcome(), isolation="podman", image_digest=DIGEST, limits=limits)
    )

    told = (await person.get(f"/api/v1/jobs/{job_id}")).json()
    assert not {"isolation", "image_digest", "limits"} & before.keys()
    assert (told["isolation"], told["image_digest"]) == ("podman", DIGEST)
    assert told["limits"] == {"timeout_seconds": 60, "network": "none", "memory_mb": 512, "cpu": 0.5}
    JobBody.model_validate(told)


async def test_all_that_was_frozen_is_told_and_no_secret(person: Person) -> None:
    frozen = {
        "job_command": "make",
        "code_dir": "/job/src/a",
        "job_dir": "/job/src/b",
        "runner_image": "example.org/base:1",
        "job_env_file": "ci.env",
        "timeout_seconds": 60,
        "silence_timeout_seconds": 30,
        "network": "none",
        "artifacts": ["*.xml"],
        "resources": {"memory_mb": 300, "pids": 50},
        "source_type": "git",
        "git_url": "https://git.example.org/r",
        "git_ref": "main",
    }
    variables = {"job_env_vars": {"A": "1", "A_TOKEN": "hidden"}, "job_secrets": {"B": "hidden too"}}

    told = await person.submit(**frozen, **variables)

    assert {name: told[name] for name in frozen} == frozen
    assert told["job_env_vars"] == {"A": "1", "A_TOKEN": "[REDACTED]"}
    assert told["job_secrets"] == {"A_TOKEN": "[REDACTED]", "B": "[REDACTED]"}
