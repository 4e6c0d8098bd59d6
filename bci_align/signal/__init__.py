"""Signal: per-channel normalising of counts."""
