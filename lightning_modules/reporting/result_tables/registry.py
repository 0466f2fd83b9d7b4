"""The tables there are: a new one is a function of runs and options, and a line here."""

from __future__ import annotations

from lightning_modules.common.tables import Table

_HERE = "lightning_modules.reporting.result_tables"
TABLES = Table(
    "table",
    {
        "methods": f"{_HERE}.methods:methods_table",
        "robustness": f"{_HERE}.robustness:robustness_table",
        "cross_dataset": f"{_HERE}.cross_dataset:cross_dataset_table",
        "one_semantic": f"{_HERE}.one_semantic:one_semantic_table",
        "two_seeds": f"{_HERE}.two_seeds:two_seeds_table",
        "clusters": f"{_HERE}.clusters:clusters_table",
    },
)
"""Functions `(runs, options) -> ResultTable`."""
ABOUT = {
    "methods": "accuracy and FDR, methods by data sets, beside chance, trivial features, the paper; cost of training",
    "robustness": "accuracy and FDR of each method under each attack, trained with and without augmentation",
    "cross_dataset": "trained on one data set, tested on another (`evaluate.py test --label_space`)",
    "one_semantic": "trained on one kind of content, tested on others (`train_where` of the data)",
    "two_seeds": "two trainings of one architecture, told apart",
    "clusters": "do clusters of features follow how the generators are made? (NMI with design choices)",
}
