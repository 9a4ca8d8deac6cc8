"""What scvi-tools' models have and SCALEX cannot have, each with its reason."""

from __future__ import annotations

from typing import Any, NoReturn

_DRAWS = "`get_normalized_expression(n_samples=…, return_mean=False)` for the expected expression"


class RefusedMixin:
    """Methods of scvi-tools that raise, and say what to use instead."""

    def get_marginal_ll(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: the cross-entropy of values in [0, 1] is no likelihood of the data.

        It is normalized over the values 0 and 1, and not over those between, so that what scVI
        estimates by this name does not exist here. :meth:`get_elbo` and
        :meth:`get_reconstruction_error` compare models of the same input.

        Raises
        ------
        NotImplementedError
            Always.
        """
        refuse("marginal likelihood", "`get_elbo` and `get_reconstruction_error`")

    def posterior_predictive_sample(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: SCALEX has no distribution of counts to draw from, see :meth:`get_marginal_ll`.

        Draws of the expected expression are
        ``get_normalized_expression(n_samples=…, return_mean=False)``.

        Raises
        ------
        NotImplementedError
            Always.
        """
        refuse("predictive distribution of counts", _DRAWS)

    def get_likelihood_parameters(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: there is no likelihood of counts, see :meth:`get_marginal_ll`.

        Raises
        ------
        NotImplementedError
            Always.
        """
        refuse("parameters of a count distribution", _DRAWS)

    def get_feature_correlation_matrix(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: scVI's takes its noise from the likelihood, see :meth:`get_marginal_ll`.

        Raises
        ------
        NotImplementedError
            Always.
        """
        refuse("noise for this to add to expression", "`get_normalized_expression().corr()`")

    def get_latent_library_size(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: cells are normalized to one total before they are encoded.

        Raises
        ------
        NotImplementedError
            Always.
        """
        refuse("library size in its latent", "the totals of the counts")

    @staticmethod
    def prepare_query_mudata(*args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: a model reads one modality, and finds its genes by their names.

        Raises
        ------
        NotImplementedError
            Always.
        """
        msg = (
            "There is no need to prepare a MuData: `SCALEXModel.load_query_data(mdata, model)` "
            "takes it, and finds the genes of the modality by their names."
        )
        raise NotImplementedError(msg)


def refuse(what: str, instead: str) -> NoReturn:
    """Raise, with the one reason that all of these have."""
    msg = (
        f"SCALEX has no {what}: it is trained by a cross-entropy of values in [0, 1], not by a "
        f"likelihood of counts. Use {instead}."
    )
    raise NotImplementedError(msg)
