"""``make drills``: upgrade, refusal and restore as an operator does them, on a live job."""
