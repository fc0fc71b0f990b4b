"""How Fibflow is installed: on AWS, on Kubernetes, of which images, and what that costs."""
