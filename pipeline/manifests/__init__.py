"""Make manifests of what people have: folders of images, lists, data sets and tars."""
