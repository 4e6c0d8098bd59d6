"""The live system: decoder and aligner in their own processes, ring, mailbox, swap, replay."""
