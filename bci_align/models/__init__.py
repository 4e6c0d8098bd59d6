"""Networks: read-in, causal core, spike decoder, spatio-temporal denoiser."""
