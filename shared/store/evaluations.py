"""What was measured: one row for each job, model and dataset or task; written by the transaction that ends the job."""

from __future__ import annotations

from sqlalchemy import Connection, insert, or_, select

from shared.ids import new_id
from shared.records import Evaluation, NewEvaluation, Page
from shared.store.columns import now, record
from shared.store.engine import Database
from shared.store.paging import one, page
from shared.store.tables import evaluations


class Evaluations:
    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, project_id: str, evaluation_id: str) -> Evaluation:
        query = select(evaluations).where(evaluations.c.project_id == project_id, evaluations.c.id == evaluation_id)
        with self._database.read() as connection:
            return record(Evaluation, one(connection, query, f"evaluation {evaluation_id!r}"))

    def list(
        self,
        project_id: str,
        *,
        model: str | None = None,
        model_id: str | None = None,
        dataset: str | None = None,
        task: str | None = None,
        after: str | None = None,
        limit: int = 1000,
        order: str = "desc",
    ) -> Page[Evaluation]:
        """`model` is a name; `model_id` the record's id, under which an older model of the same name has nothing;
        `dataset` a name or an id."""
        query = select(evaluations)
        wanted = {"model_name": model, "model_id": model_id, "task": task}
        for column, value in wanted.items():
            query = query if value is None else query.where(evaluations.c[column] == value)
        if dataset is not None:
            query = query.where(or_(evaluations.c.dataset == dataset, evaluations.c.dataset_id == dataset))
        with self._database.read() as connection:
            return page(
                connection, query, evaluations, Evaluation, project_id=project_id, after=after, limit=limit, order=order
            )


def insert_evaluation(connection: Connection, project_id: str, job_id: str, new: NewEvaluation) -> None:
    made = Evaluation(**vars(new), id=new_id("eval-"), project_id=project_id, job_id=job_id, created_at=now())
    connection.execute(insert(evaluations).values(vars(made)))
