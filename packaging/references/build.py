"""Build references of public data sets, and push them.

Usage: ``python packaging/references/build.py NAME --out FOLDER`` (see ``--help``). ``embedded``
needs no network. Files are fetched by pooch (extra ``hub``), or given by ``--data``: figshare may
refuse what is no browser. Labels of fewer than five cells are set to missing, with a warning.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
from anndata import AnnData

import scalex_scvi as sx

logger = logging.getLogger(__name__)

FEWEST_CELLS = 5


@dataclass(frozen=True)
class Source:
    """A public data set: where it is, which columns it has, and what its card says."""

    batch_key: str
    labels: str
    license: str
    about: dict[str, str]
    url: str | None = None
    """``None``: it ships with the package."""
    layer: str | None = None
    """Layer with counts, instead of ``X``."""
    without: tuple[str, ...] = ()
    """Batches that are left out."""


_SCIB = "Luecken et al., Benchmarking atlas-level data integration, Nat Methods 19:41, 2022"

SOURCES = {
    "embedded": Source(
        batch_key="batch",
        labels="celltype",
        license="mit",
        about={
            "organism": "human",
            "tissue": "pancreas",
            "description": "500 cells of five technologies that ship with scalex-scvi: to try "
            "things on, not to annotate with.",
            "source": "panc8 of SeuratData, as in the R package bbknnR",
            "citation": "Grün et al., Cell Stem Cell 19:266, 2016; Muraro et al., Cell Systems "
            "3:385, 2016; Lawlor et al., Genome Research 27:208, 2017; Baron et al., Cell Systems "
            "3:346, 2016; Segerstolpe et al., Cell Metabolism 24:593, 2016",
        },
    ),
    "pancreas": Source(
        url="https://figshare.com/ndownloader/files/24539828",
        batch_key="tech",
        labels="celltype",
        license="cc-by-4.0",
        layer="counts",
        about={"organism": "human", "tissue": "pancreas", "citation": _SCIB},
    ),
    "immune": Source(
        url="https://figshare.com/ndownloader/files/25717328",
        batch_key="batch",
        labels="final_annotation",
        license="cc-by-4.0",
        layer="counts",
        without=("Villani",),  # its values are no whole numbers
        about={
            "organism": "human",
            "tissue": "peripheral blood and bone marrow",
            "citation": _SCIB,
        },
    ),
}


def main(argv: Sequence[str] | None = None) -> Path:
    """Build one reference, and return its folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(SOURCES))
    parser.add_argument("--out", required=True, type=Path, help="folder to make the reference in")
    parser.add_argument("--data", type=Path, help=".h5ad file, instead of the one of the address")
    parser.add_argument("--max-steps", type=int, help="minibatches (the default recipe's)")
    parser.add_argument("--push", metavar="OWNER", help="account on the hub to push it to")
    args = parser.parse_args(argv)
    source = SOURCES[args.name]
    adata = read(source, args.data)
    adata = adata[~adata.obs[source.batch_key].isin(source.without).to_numpy()].copy()
    leave_rare_labels_out(adata, source.labels)
    more = {} if args.max_steps is None else {"max_steps": args.max_steps}
    model = sx.integrate(adata, source.batch_key, layer=source.layer, **more)
    about = source.about if source.url is None else {"source": source.url} | source.about
    folder = sx.references.save(
        model, args.out / args.name, source.labels, license=source.license, about=about
    )
    if args.push:
        sx.references.push(folder, f"{args.push}/{args.name}")
    return folder


def read(source: Source, data: Path | None) -> AnnData:
    """Cells of a source, fetched if need be."""
    if source.url is None and data is None:
        return sx.datasets.pancreas()
    if data is None:
        import pooch

        data = Path(pooch.retrieve(source.url, None, progressbar=True))
    return ad.read_h5ad(data)


def leave_rare_labels_out(adata: AnnData, labels: str) -> None:
    """Set labels of very few cells to missing: their means would tell single cells."""
    column = adata.obs[labels].astype(object)
    counts = column.value_counts()
    rare = list(counts.index[counts < FEWEST_CELLS])
    if rare:
        logger.warning("Labels of fewer than %d cells are left out: %r.", FEWEST_CELLS, rare)
        adata.obs[labels] = column.where(~column.isin(rare)).astype("category")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
