"""Methods of others as plain, label-free baselines: what ours must beat, in the same package and the same run.

``RIVALS[name].method(bundle, source, trials, seed)`` gives a read-in or a causal map of counts; :func:`decode` takes either.
All take channel i of today for channel i of the source day. Nothing in here was tuned on a target day's score.
"""

from bci_align.alignment.rivals import cyclegan, latent, linear, normalisation
from bci_align.alignment.rivals.protocol import Adapted, CountsMap, Method, Rival, decode

RIVALS: dict[str, Rival] = {
    r.name: r
    for r in (
        Rival("none", normalisation.none, "the source day's decoder as it is", "control"),
        Rival(
            "renormalise",
            normalisation.renormalise,
            "each channel's mean and standard deviation from today's trials",
            "control",
        ),
        Rival(
            "running",
            normalisation.running,
            f"the same statistics, forgetting over {normalisation.TIME_CONSTANT_S:g} s while decoding",
            "Jarosiewicz et al. 2015, Sci. Transl. Med. 7:313ra179 (tracking of feature statistics)",
        ),
        Rival(
            "fa_procrustes",
            linear.factor_procrustes,
            "factor analysis per day, loadings turned onto the source day's over stable channels",
            "Degenhart et al. 2020, Nat. Biomed. Eng. 4:672",
        ),
        Rival("coral", linear.coral, "today's covariance whitened and coloured as the source day's", "Sun et al. 2016, AAAI"),
        Rival(
            "gaussian_ot",
            linear.gaussian_transport,
            "optimal transport between Gaussians of normalised counts",
            "Flamary et al. 2019, arXiv:1905.10155 (linear Monge mapping)",
        ),
        Rival(
            "mmd",
            latent.mmd,
            "read-in moved to a small maximum mean discrepancy of latents",
            "Gretton et al. 2012, JMLR 13:723; Long et al. 2015, ICML",
        ),
        Rival(
            "adversarial",
            latent.adversarial,
            "read-in moved to fool a discriminator of pairs of latents (z_t, z_t+k)",
            "after Farshchian et al. 2019, ICLR (ADAN) and Karpowicz et al. 2022, bioRxiv (NoMAD)",
        ),
        Rival(
            "gaussian_kl",
            latent.gaussian_kl,
            "read-in moved to a small KL divergence between Gaussians of latents",
            "Farshchian et al. 2019, ICLR (their KL rival)",
        ),
        Rival(
            "cycle_gan",
            cyclegan.cycle_gan,
            "two networks between the days' bins, each other's inverse, against two discriminators",
            "Ma et al. 2023, eLife 12:e84296",
        ),
    )
}

__all__ = ["RIVALS", "Adapted", "CountsMap", "Method", "Rival", "decode"]
