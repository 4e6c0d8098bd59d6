"""Generated trials: codes of trials, navigation among them, spikes from rates, and decoders retrained with what was generated."""
