"""A simulated subject, its drift over days, a centre-out task and a rig that streams it."""
