"""What a plan needs of the nodes that its fine-tunes and engines come to lie on."""

from __future__ import annotations

from inoc_ray.cluster.checks import Needs, fingerprint
from inoc_ray.cluster.fit import Node
from inoc_ray.cluster.versions import versions
from inoc_ray.plan.plan import Plan
from inoc_ray.store.store import Store


def needs_of(plan: Plan, store: Store) -> Needs:
    """Return what is to be there on each node: models, versions, the storage, and the shapes of workers and engines."""
    trained = [(trial.model.path, plan.resources_of(trial)) for trial in plan.to_train]
    served = [(c.subject.model.path, plan.study.resources.of_engine(c.subject.model.name)) for c in plan.to_sample]
    judges = {j.name: j for c in plan.asked for j in (g.judge for g in c.judges.gradings.values())}
    judging = [(j.folder, plan.study.resources.of_judge(j.name)) for j in judges.values() if j.folder is not None]
    workers = [Node(taken.cpus_per_worker, taken.gpus_per_worker) for _, taken in trained]
    engines = [Node(taken.serve_cpus, taken.gpus) for _, taken in (*served, *judging)]
    folders = dict.fromkeys(folder for folder, _ in (*trained, *served, *judging))
    return Needs(
        storage=store.address,
        versions=versions(),
        models={str(folder): fingerprint(folder) for folder in folders},
        workers=tuple(dict.fromkeys(workers)),
        engines=tuple(dict.fromkeys(engines)),
    )
