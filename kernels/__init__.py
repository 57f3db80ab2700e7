"""The operations that merge tokens: plan on a small metric, pool once, medoid, attend, novelty."""

if __name__ == "kernels":
    # Somebody asked for the public package of this name while the repository's root is on sys.path.
    # Give them that package if it is installed; if not, look like one that is too old to use.
    import importlib.machinery
    import importlib.util
    import os
    import sys

    __version__ = "0.0.0"  # transformers parses it
    _root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    # other checkouts of this repository would look for the package here again
    _roots = sys.__dict__.setdefault("_longcompress_roots", set())
    _roots.add(_root)
    _elsewhere = [p for p in sys.path if os.path.realpath(p or os.getcwd()) not in _roots]
    _spec = importlib.machinery.PathFinder.find_spec(__name__, _elsewhere)
    if _spec is not None and _spec.loader is not None:
        _module = importlib.util.module_from_spec(_spec)
        sys.modules[__name__] = _module
        _spec.loader.exec_module(_module)
else:
    from .attend import State, attend, attend_reference, start_state
    from .medoid import medoid, medoid_reference
    from .metric import frame_novelty, head_mean, head_mean_reference, novelty, novelty_reference
    from .plan import after_rounds, plan, plan_reference
    from .pool import Plan, extremes, pool, pool_reference, unpool
    from .tree import Tree, blocked, cut, cut_heights, tree

    __all__ = [
        "Plan", "State", "Tree", "after_rounds", "attend", "attend_reference", "blocked", "cut",
        "cut_heights", "extremes",
        "frame_novelty", "head_mean", "head_mean_reference", "medoid", "medoid_reference", "novelty",
        "novelty_reference", "plan", "plan_reference", "pool", "pool_reference", "start_state", "tree",
        "unpool",
    ]  # fmt: skip
