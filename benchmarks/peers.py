"""How peers are run in more than one benchmark, by their own documentation."""

from __future__ import annotations

from typing import Any

SCVI_MAPPABLE: dict[str, Any] = {
    "use_layer_norm": "both",
    "use_batch_norm": "none",
    "encode_covariates": True,
    "dropout_rate": 0.2,
    "n_layers": 2,
}
"""The architecture that scvi-tools' tutorial on reference mapping asks for."""

SCVI_QUERY: dict[str, Any] = {"max_epochs": 200, "plan_kwargs": {"weight_decay": 0.0}}
"""Its training of the query."""
