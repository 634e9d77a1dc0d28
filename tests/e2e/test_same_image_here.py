"""A job of a worker in a container, once more here: in the very image that it had."""

from whole_product import Product

from container_host import IMAGE, ContainerHost, container_host

__all__ = ["container_host"]


def test_a_job_of_a_container_is_reproduced_in_the_same_image(
    product: Product, container_host: ContainerHost
) -> None:
    product.settings |= container_host.environment | {
        "REACTORCIDE_EXECUTOR": "container",
        "REACTORCIDE_CONTAINER_ENGINE": "podman",
        "REACTORCIDE_CONTAINER_PULL": "never",
    }
    product.up()
    job = product.submit(
        "echo from the image; test -e /bin/busybox && exit 5", "--image", IMAGE, "--network", "none"
    )
    assert product.run("wait", job).returncode == 5, product.log(job)
    product.settings["REACTORCIDE_EXECUTOR"] = "auto"

    done = product.run("reproduce", job)

    told = product.job(job)
    assert told["isolation"] == "podman"
    assert told["image_digest"].startswith("sha256:")
    assert done.returncode == 0, done.stderr
    assert f"image      {IMAGE.rpartition(':')[0]}@{told['image_digest']}" in done.stderr
    assert "from the image" in done.stdout
    assert " in podman, exit code 5" in done.stderr
    assert "differs" not in done.stderr
    assert container_host.containers() == []
