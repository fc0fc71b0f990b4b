"""The server over the outputs: history, prices, exports, push. Never imports Beam."""
