"""Any diffusers pipeline as a denoiser."""
