"""The gateway: each image goes to the model that is live for its class, and to the other one in the shadow."""
