"""The MLflow run of a study: its reports are files of it, its trials' runs are nested in it."""

from typing import TYPE_CHECKING

from .one_run import find_or_create

if TYPE_CHECKING:
    from mlflow import MlflowClient


def study_run(client: "MlflowClient", experiment_id: str, study: str, tracking_url: str) -> str:
    """Returns the id of the study's run in the experiment of its trials; made where there is none.

    It has the tag `moescope.report`, as studies of earlier versions do.
    """
    return find_or_create(
        client,
        experiment_id,
        {"moescope.report": study},
        f"study {study}",
        more_tags={"moescope.study": study, "study": study},
        tracking_url=tracking_url,
    )
