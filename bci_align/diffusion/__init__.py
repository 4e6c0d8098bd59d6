"""The one diffusion core: schedule, process, fit."""
