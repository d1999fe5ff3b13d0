"""The whole life of a model: stages that hand values to each other."""
