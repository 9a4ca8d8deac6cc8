"""label_transfer: discriminants of latent and expression, or the majority of the neighbors."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from conftest import simulate_counts
from scipy import optimize, sparse, special
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestNeighbors

import scalex_scvi as sx
from scalex_scvi.tl._discriminant import Discriminants


def cells(points: list[float], labels: list[str] | None = None) -> AnnData:
    obs = pd.DataFrame(index=[f"c{i}" for i in range(len(points))])
    if labels is not None:
        obs["celltype"] = pd.Categorical(labels, categories=["a", "b", "unused"])
    return AnnData(obs=obs, obsm={"latent": np.array(points, dtype=float)[:, None]})


@pytest.fixture
def ref() -> AnnData:
    return cells([0, 0.1, 0.2, 5, 5.1, 5.2], ["a", "a", "a", "b", "b", "b"])


def probabilities(ref: AnnData, query: AnnData, *args: str, **kwargs: object) -> pd.DataFrame:
    return sx.tl.label_scores(ref, query, *args, novelty="latent", **kwargs).probabilities


def test_majority_of_the_neighbors(ref: AnnData) -> None:
    query = cells([0.05, 5.05])
    labels = sx.label_transfer(ref, query, method="neighbors", n_neighbors=4)
    proba = probabilities(ref, query, method="neighbors", n_neighbors=4, max_refused=0.5)
    assert list(labels) == ["a", "b"]
    assert list(labels.cat.categories) == ["a", "b"]
    np.testing.assert_allclose(proba, [[0.75, 0.25], [0.25, 0.75]])
    assert list(proba.columns) == ["a", "b"]
    query.obs["celltype_transfer"] = labels  # as in the published documentation
    assert query.obs["celltype_transfer"].notna().all()


def test_more_neighbors_than_reference_cells(ref: AnnData) -> None:
    assert len(sx.label_transfer(ref, cells([0.0]), method="neighbors", n_neighbors=50)) == 1


def blobs(sizes: dict[str, int], *, shift: float = 0, seed: int = 0) -> AnnData:
    """Gaussian cells of types whose means are ten apart on a line, in three dimensions."""
    rng = np.random.default_rng(seed)
    celltype = np.repeat(list(sizes), list(sizes.values()))
    points = rng.normal(size=(len(celltype), 3)) + shift
    points[:, 0] += 10 * pd.Index(["a", "b", "c", "new"]).get_indexer(celltype)
    obs = pd.DataFrame({"celltype": celltype}, index=[f"c{i}" for i in range(len(celltype))])
    return AnnData(obs=obs, obsm={"latent": points})


def share_right(labels: pd.Series, query: AnnData) -> float:
    return float((labels.astype(str) == query.obs["celltype"]).mean())


def test_discriminants_are_those_of_scikit_learn_where_the_query_has_no_offset() -> None:
    ref = blobs({"a": 50, "b": 30, "c": 5})
    ref.obsm["latent"][:, 0] /= 5  # types overlap
    model = LinearDiscriminantAnalysis(priors=[1 / 3] * 3)
    model.fit(ref.obsm["latent"], ref.obs["celltype"])
    # Each cell has its mirror image beyond the mean of its type: no offset.
    query = AnnData(obs=ref.obs, obsm={"latent": np.repeat(model.means_, [50, 30, 5], axis=0)})
    labels, proba = sx.label_transfer(ref, query), probabilities(ref, query)
    assert list(labels) == list(model.predict(query.obsm["latent"]))
    np.testing.assert_allclose(proba, model.predict_proba(query.obsm["latent"]), atol=0.05)
    np.testing.assert_allclose(proba.sum(axis=1), 1)


def test_an_offset_of_the_whole_query_is_taken_out() -> None:
    ref = blobs({"a": 100, "b": 100, "c": 100})
    query = blobs({"a": 50, "b": 80, "c": 20}, shift=4.5, seed=1)
    assert share_right(sx.label_transfer(ref, query), query) > 0.99
    assert share_right(sx.label_transfer(ref, query, method="neighbors"), query) < 0.9


def test_each_batch_of_the_query_has_its_own_offset() -> None:
    ref = blobs({"a": 100, "b": 100, "c": 100})
    ref.obs["batch"] = "reference"
    above, below = (blobs({"a": 40, "b": 40, "c": 40}, shift=by, seed=2) for by in (4.5, -4.5))
    query = ad.concat([above, below], label="batch", index_unique="-")
    assert share_right(sx.label_transfer(ref, query, batch_key="batch"), query) > 0.99
    assert share_right(sx.label_transfer(ref, query), query) < 0.95


def test_cells_of_a_new_type_do_not_move_the_others() -> None:
    ref = blobs({"a": 100, "b": 100, "c": 100})
    query = blobs({"a": 30, "b": 30, "new": 25}, seed=1)
    known = query.obs["celltype"] != "new"
    assert share_right(sx.label_transfer(ref, query)[known], query[known]) == 1


def test_few_query_cells_are_not_moved_onto_their_neighbors() -> None:
    ref = blobs({"a": 100, "b": 100})
    alone = blobs({"a": 1}, seed=3)
    alone.obsm["latent"][0, 0] = 6  # nearer to "b"
    assert list(sx.label_transfer(ref, alone)) == ["b"]


def test_a_rare_type_is_as_probable_as_a_frequent_one() -> None:
    ref = blobs({"a": 500, "b": 3})
    query = blobs({"b": 3}, seed=4)
    assert share_right(sx.label_transfer(ref, query), query) == 1


@pytest.fixture
def prepared_pair() -> tuple[AnnData, AnnData]:
    return prepared(simulate_counts())


def prepared(counts: AnnData) -> tuple[AnnData, AnnData]:
    """Reference and query of other batches, prepared; a latent that tells nothing."""
    is_query = (counts.obs["batch"] == "batch2").to_numpy()
    ref = sx.pp.rna(counts[~is_query].copy(), batch_key="batch", min_features=0, min_cells=0)
    record = sx.pp.Preprocessing.from_adata(ref)
    query = sx.pp.prepare_query(counts[is_query].copy(), record, batch_key="batch")
    for seed, adata in enumerate((ref, query)):
        adata.obsm["latent"] = np.random.default_rng(seed).normal(size=(adata.n_obs, 3))
    return ref, query


def softened(shares: pd.DataFrame | np.ndarray, temperature: float) -> np.ndarray:
    powers = np.asarray(shares) ** (1 / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def without_offset(
    classify: Callable[[np.ndarray], np.ndarray], means: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """Probabilities after the offset of the targets is taken off, in three rounds."""
    shares = classify(targets)
    for _ in range(3):
        offset = np.median(targets - shares @ means, axis=0)
        shares = classify(targets - offset * len(targets) / (len(targets) + 20))
    return shares


def by_discriminants(points: np.ndarray, codes: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    n_labels = codes.max() + 1
    priors = np.full(n_labels, 1 / n_labels)
    return LinearDiscriminantAnalysis(priors=priors).fit(points, codes).predict_proba


def by_ridge(points: np.ndarray, codes: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Ridge regression of 1 and −1, in which labels count alike."""

    def rows(cells: np.ndarray) -> np.ndarray:
        return np.column_stack([cells / points.std(axis=0), np.ones(len(cells))])

    weight = 1 / np.bincount(codes)[codes]
    known = rows(points)
    penalty = 0.01 * (weight @ (known**2).sum(axis=1)) / known.shape[1]
    model = Ridge(penalty, fit_intercept=False)
    model.fit(known, 2 * np.eye(codes.max() + 1)[codes] - 1, sample_weight=weight)
    return lambda cells: special.softmax(8 * model.predict(rows(cells)), axis=1)


Classifier = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]


def log_expression(pair: tuple[AnnData, AnnData]) -> tuple[np.ndarray, np.ndarray]:
    log = simulate_counts()[:, pair[0].var_names].copy()
    sc.pp.normalize_total(log, target_sum=1e4)
    sc.pp.log1p(log)
    of_ref, of_query = (log[adata.obs_names].X.toarray() for adata in pair)
    return of_ref, of_query


def mean_shares(pair: tuple[AnnData, AnnData], by: dict[str, list[Classifier]]) -> np.ndarray:
    """Mean probabilities of classifiers of the latent and of 50 components of the expression."""
    ref, query = pair
    of_ref, of_query = log_expression(pair)
    pca = PCA(50, svd_solver="full").fit(of_ref)
    spaces = {
        "latent": (ref.obsm["latent"], query.obsm["latent"]),
        "components": (pca.transform(of_ref), pca.transform(of_query)),
    }
    codes = ref.obs["celltype"].astype("category").cat.codes.to_numpy()
    found = []
    for space, classifiers in by.items():
        points, targets = spaces[space]
        means = np.stack([points[codes == code].mean(axis=0) for code in range(codes.max() + 1)])
        found += [without_offset(fit(points, codes), means, targets) for fit in classifiers]
    return np.mean(found, axis=0)


def assert_calibrated(proba: pd.DataFrame, expected: np.ndarray) -> None:
    """The same, but for one number that calibrates them."""

    def apart(temperature: float) -> float:
        return np.abs(softened(expected, temperature) - proba.to_numpy()).max()

    calibrated = optimize.minimize_scalar(apart, bounds=(1, 100), method="bounded")
    assert calibrated.fun < 5e-3  # components are of single precision


def test_consensus_is_of_three_classifiers_and_of_neighbors(prepared_pair) -> None:
    ref, query = prepared_pair
    by = {"latent": [by_discriminants], "components": [by_discriminants, by_ridge]}
    shares = mean_shares(prepared_pair, by)
    own = PCA(20, svd_solver="full").fit_transform(log_expression(prepared_pair)[1])
    n_neighbors = min(15, query.n_obs // 10)
    nearest = NearestNeighbors(n_neighbors=n_neighbors).fit(own).kneighbors(own)[1]
    expected = shares * shares[nearest].mean(axis=1) ** (2 / 3)
    assert_calibrated(probabilities(ref, query), expected)
    assert share_right(sx.label_transfer(ref, query), query) > 0.9  # by the expression


def test_references_saved_before_keep_their_labels(prepared_pair) -> None:
    """They hold no ridge regression, and are calibrated for discriminants without neighbors.

    Nor do they hold what groups of cells are compared with.
    """
    ref, query = prepared_pair
    arrays = sx.tl.LabelModel.fit(ref, batch_key="batch").to_arrays()
    later = ("ridge/", "group_misfits/")
    before = {name: values for name, values in arrays.items() if not name.startswith(later)}
    assert len(before) == len(arrays) - 5
    scores = sx.tl.LabelModel.from_arrays(before).scores(query)
    by = {"latent": [by_discriminants], "components": [by_discriminants]}
    assert_calibrated(scores.probabilities, mean_shares(prepared_pair, by))


def test_a_part_of_a_label_model_that_is_missing_is_an_error(prepared_pair) -> None:
    arrays = sx.tl.LabelModel.fit(prepared_pair[0], batch_key="batch").to_arrays()
    for name in ("ridge/means", "expression/weights", "latent/means"):
        damaged = {key: values for key, values in arrays.items() if key != name}
        with pytest.raises(ValueError, match=f"missing: KeyError\\('{name}'\\)"):
            sx.tl.LabelModel.from_arrays(damaged)


def test_genes_that_the_reference_never_expresses_do_not_count() -> None:
    """No component of the reference has them; those without variance were any directions."""
    counts = simulate_counts(300)
    in_reference = (counts.obs["batch"] != "batch2").to_numpy()
    x = counts.X.toarray()
    x[in_reference, :20] = 0
    counts.X = sparse.csr_matrix(x)
    ref, query = prepared(counts)
    scores = [sx.tl.label_scores(ref, query, batch_key="batch") for _ in range(2)]
    assert share_right(scores[0].labels, query) > 0.95
    assert scores[0].is_unknown.mean() < 0.2
    pd.testing.assert_frame_equal(scores[0].probabilities, scores[1].probabilities)


@pytest.mark.parametrize("deviation", [0, 1e-8])
@pytest.mark.parametrize("fit", [Discriminants.of, Discriminants.by_ridge], ids=["lda", "ridge"])
def test_a_dimension_that_is_constant_does_not_count(
    fit: Callable[[np.ndarray, np.ndarray], Discriminants], deviation: float
) -> None:
    """Such as a component that one batch alone has, while that batch is held out."""
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1, 2], 40)
    points, targets = (rng.normal(size=(120, 4)) + 2 * codes[:, None] for _ in range(2))
    constant = 3 + deviation * rng.normal(size=(120, 1))
    batch = np.zeros(120, dtype=int)
    plain = fit(points, codes).shares(targets, batch)
    more = fit(np.hstack([points, constant]), codes)
    shares = more.shares(np.hstack([targets, 5 * constant]), batch)
    np.testing.assert_allclose(shares, plain, atol=0.02)


def test_equal_cells_raise_no_warning(prepared_pair) -> None:
    ref, query = prepared_pair
    equal = query[[0] * 40].copy()
    equal.obs_names_make_unique()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        labels = sx.label_transfer(ref, equal, unknown=True, batch_key="batch")
    assert labels.nunique() == 1


def test_a_doubtful_cell_goes_with_its_neighbors() -> None:
    """A cell that is half of one type and half of another, among cells of either."""
    ref, query = prepared(simulate_counts(900))
    types = query.obs["celltype"]
    first, second = types.unique()[:2]
    own, other = (query[types == name] for name in (first, second))
    mixed = own[:1].copy()
    mixed.X = sparse.csr_matrix((own[0].X + other[0].X) / 2)
    mixed.obs_names = ["doubtful"]

    def share_of_first(company: AnnData) -> float:
        together = ad.concat([company, mixed], merge="same", uns_merge="same")
        return probabilities(ref, together).loc["doubtful", first]

    assert share_of_first(own) > share_of_first(other)


def test_consensus_is_the_same_for_joined_cells(prepared_pair) -> None:
    ref, query = prepared_pair
    joined = ad.concat([ref, query])
    records = [sx.pp.Preprocessing.from_adata(adata) for adata in prepared_pair]
    records[0].with_new_batches(records[1].scale, "batch").to_adata(joined)
    again = [joined[adata.obs_names] for adata in prepared_pair]
    labels = sx.label_transfer(*again, method="consensus")
    assert list(labels) == list(sx.label_transfer(ref, query))


def _without_a_batch(query: AnnData) -> AnnData:
    query = query.copy()
    query.obs["batch"] = query.obs["batch"].astype(object)
    query.obs.loc[query.obs_names[0], "batch"] = None
    return query


NO_CONSENSUS = {
    "a missing batch": _without_a_batch,
    "other genes": lambda query: query[:, ::-1].copy(),
    "not prepared": lambda query: AnnData(query.X, obs=query.obs, var=query.var, obsm=query.obsm),
    "no batch": lambda query: AnnData(
        query.X,
        obs=query.obs.drop(columns="batch"),
        var=query.var,
        obsm=query.obsm,
        varm=query.varm,
        uns=query.uns,
    ),
}


@pytest.mark.parametrize("spoil", NO_CONSENSUS.values(), ids=NO_CONSENSUS.keys())
def test_without_shared_prepared_expression_the_latent_decides(
    prepared_pair, spoil, caplog: pytest.LogCaptureFixture
) -> None:
    ref, query = prepared_pair
    query = spoil(query)
    with caplog.at_level(logging.WARNING):
        labels = sx.label_transfer(ref, query)
    assert "'latent' alone" in caplog.text and "get_prepared" in caplog.text
    assert list(labels) == list(sx.label_transfer(ref, query, method="discriminant"))
    with pytest.raises(ValueError, match="get_prepared"):
        sx.label_transfer(ref, query, method="consensus")


@pytest.mark.parametrize("labels", [["a", "a", "a"], ["a", "b", "c"]], ids=["one", "one cell each"])
def test_what_has_no_discriminant_is_voted_on(labels: list[str]) -> None:
    ref = AnnData(
        obs=pd.DataFrame({"celltype": labels}, index=list("xyz")),
        obsm={"latent": np.array([[0.0], [1.0], [2.0]])},
    )
    voted = sx.label_transfer(ref, cells([0.1]), n_neighbors=1)
    assert list(voted) == ["a"]


def test_the_matrix_itself_is_voted_on() -> None:
    ref = AnnData(sparse.csr_matrix(np.eye(4)), obs=pd.DataFrame({"celltype": list("aabb")}))
    query = AnnData(sparse.csr_matrix([[0, 0, 0, 0.9]]))
    assert list(sx.label_transfer(ref, query, use_rep="X", n_neighbors=1)) == ["b"]
    with pytest.raises(ValueError, match="Use `method='neighbors'`"):
        sx.label_transfer(ref, query, use_rep="X", method="discriminant")


def test_the_published_name_of_the_representation(prepared_pair) -> None:
    ref, query = prepared_pair
    for adata in (ref, query):
        adata.obsm["other"] = adata.obsm["latent"]
    by_place = sx.label_transfer(ref, query, "other", "celltype")
    del ref.obsm["latent"], query.obsm["latent"]  # the default
    for name in ("use_rep", "rep"):
        assert sx.label_transfer(ref, query, **{name: "other"}).equals(by_place)


def test_neighbors_do_not_ask_for_the_batches_of_the_query(prepared_pair) -> None:
    ref, query = prepared_pair
    query = _without_a_batch(query)
    kwargs = {"method": "neighbors", "batch_key": "batch"}
    assert len(sx.label_transfer(ref, query, **kwargs)) == query.n_obs


def test_is_the_tool_of_the_same_name() -> None:
    assert sx.label_transfer is sx.tl.label_transfer


def _without_labels(ref: AnnData) -> None:
    ref.obs["celltype"] = None


def _wider(ref: AnnData) -> None:
    ref.obsm["latent"] = np.zeros((6, 2))


BAD = {
    "missing labels": (_without_labels, {}, ValueError, "No cell of the reference has a label"),
    "no label": (lambda ref: None, {"label": "type"}, KeyError, "'type' is not a column"),
    "no representation": (
        lambda ref: None,
        {"use_rep": "X_pca"},
        KeyError,
        "not in ref.obsm.*map_query",
    ),
    "both names": (
        lambda ref: None,
        {"use_rep": "X_pca", "rep": "latent"},
        ValueError,
        "give `use_rep` alone",
    ),
    "no such method": (lambda ref: None, {"method": "svm"}, ValueError, "must be one of"),
    "other space": (_wider, {}, ValueError, "2 dimensions in `ref` and 1 in `query`"),
}


@pytest.mark.parametrize(("spoil", "kwargs", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(
    ref: AnnData,
    spoil: object,
    kwargs: dict[str, str],
    error: type[Exception],
    message: str,
) -> None:
    spoil(ref)
    with pytest.raises(error, match=message):
        sx.label_transfer(ref, cells([0.0]), **kwargs)


def one_of_two(n_cells: int, seed: int, n_noise: int = 60) -> AnnData:
    """Two overlapping labels in one dimension, and others that say nothing."""
    rng = np.random.default_rng(seed)
    codes = np.arange(n_cells) % 2
    points = rng.normal(size=(n_cells, 1 + n_noise))
    points[:, 0] += 2 * codes
    obs = pd.DataFrame(
        {"celltype": [f"type{i}" for i in codes], "batch": np.arange(n_cells) // 2 % 4}
    )
    return AnnData(obs=obs.set_index("c" + obs.index.astype(str)), obsm={"latent": points})


@pytest.mark.parametrize(("batch_key", "off"), [("batch", 0.05), (None, 0.04)])
def test_probabilities_say_how_often_labels_are_right(batch_key: str | None, off: float) -> None:
    """Few cells in many dimensions: discriminants are far too sure of themselves.

    A held-out batch, one of four here, is labeled by fewer cells than a query: a little too unsure.
    """
    ref, query = one_of_two(240, 0), one_of_two(3000, 1)
    raw = LinearDiscriminantAnalysis().fit(ref.obsm["latent"], ref.obs["celltype"])
    too_sure = raw.predict_proba(query.obsm["latent"]).max(axis=1)
    scores = probabilities(ref, query, batch_key=batch_key)
    labels = sx.label_transfer(ref, query, batch_key=batch_key)
    right = (labels.to_numpy() == query.obs["celltype"].to_numpy()).mean()
    assert (scores.idxmax(axis=1).to_numpy() == labels.to_numpy()).all()
    assert abs(scores.max(axis=1).mean() - right) < off
    assert too_sure.mean() > right + 0.08


def test_probabilities_where_the_other_batches_have_one_cell_of_each_label() -> None:
    ref = blobs({"a": 40, "b": 40, "c": 40})
    tiny = blobs({"a": 1, "b": 1, "c": 1}, seed=1)
    ref = ad.concat({"large": ref, "tiny": tiny}, label="batch", index_unique="-")
    query = blobs({"a": 10, "b": 10}, seed=2)
    found = probabilities(ref, query, batch_key="batch", max_refused=0.2)
    assert (found.idxmax(axis=1) == query.obs["celltype"]).all()


def _sparse(adata: AnnData) -> None:
    adata.obsm["latent"] = sparse.csr_matrix(adata.obsm["latent"])


def _with_nan(adata: AnnData) -> None:
    adata.obsm["latent"][0, 0] = np.nan


BAD_POINTS = {
    "sparse": (_sparse, TypeError, "toarray"),
    "NaN": (_with_nan, ValueError, "NaN or infinite, in 1 of "),
}


@pytest.mark.parametrize(("spoil", "error", "message"), BAD_POINTS.values(), ids=BAD_POINTS)
@pytest.mark.parametrize("which", ["ref", "query"])
def test_representation_that_cannot_be(
    ref: AnnData, which: str, spoil: object, error: type[Exception], message: str
) -> None:
    query = cells([0.05, 5.05])
    spoil({"ref": ref, "query": query}[which])
    with pytest.raises(error, match=rf"{which}\.obsm\['latent'\].*{message}"):
        sx.label_transfer(ref, query)


@pytest.mark.parametrize("which", ["ref", "query"])
def test_no_cells_are_named(ref: AnnData, which: str) -> None:
    given = {"ref": ref, "query": cells([0.05, 5.05])}
    given[which] = given[which][:0].copy()
    with pytest.raises(ValueError, match=f"`{which}` has no cells"):
        sx.label_transfer(**given)


@pytest.mark.parametrize("which", ["ref", "query"])
def test_expression_that_is_no_number_is_named(which: str) -> None:
    given = {}
    for name in ("ref", "query"):
        bare = blobs({"a": 30, "b": 30})
        values = np.random.default_rng(0).random((60, 8), dtype=np.float32)
        values[3, 5] = np.nan if name == which else 0
        given[name] = AnnData(values, obs=bare.obs, obsm=dict(bare.obsm))
    with pytest.raises(ValueError, match=f"{which}.X holds values that are NaN"):
        sx.tl.label_scores(**given)


def test_a_batch_column_that_nobody_has(ref: AnnData) -> None:
    with pytest.raises(KeyError, match="'donor' is not a column of ref.obs"):
        sx.label_transfer(ref, cells([0.05]), batch_key="donor")
