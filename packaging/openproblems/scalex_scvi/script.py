"""Open Problems, batch integration: SCALEX for scvi-tools."""

import anndata as ad
import h5py
from anndata.io import read_elem

import scalex_scvi as sx

## VIASH START
par = {
    "input": "resources_test/task_batch_integration/cxg_immune_cell_atlas/dataset.h5ad",
    "output": "output.h5ad",
    "n_hvg": 2000,
}
meta = {"name": "scalex_scvi"}
## VIASH END

# Counts alone: the other layers would take as much memory again.
with h5py.File(par["input"]) as file:
    adata = ad.AnnData(
        X=read_elem(file["layers/counts"]),
        obs=read_elem(file["obs"]),
        var=read_elem(file["var"]),
    )
    uns = {key: read_elem(file[f"uns/{key}"]) for key in ("dataset_id", "normalization_id")}

# The genes of the model; each cell is normalized over all genes.
genes = None
if par["n_hvg"]:
    genes = list(adata.var["hvg_score"].nlargest(par["n_hvg"]).index)

sx.SCALEXModel.setup_anndata(adata, batch_key="batch", n_top_features=genes)
model = sx.SCALEXModel(adata)
model.train(enable_progress_bar=False)

output = ad.AnnData(
    obs=adata.obs[[]],
    var=adata.var[[]],
    obsm={"X_emb": model.get_latent_representation()},
    uns=uns | {"method_id": meta["name"]},
)
output.write_h5ad(par["output"], compression="gzip")
