"""A stand-in for Slicer's module SampleData, as strict about its arguments as that of 5.12.3."""

import slicer

FIELDS = ("uris", "fileNames", "nodeNames", "loadFiles", "loadFileTypes", "checksums")


class SampleDataSource:
    def __init__(self, sampleName=None, customDownloader=None, thumbnailFileName=None, **fields):
        unknown = set(fields) - {*FIELDS, "loadFileProperties"}
        if unknown:
            raise TypeError(f"unexpected arguments: {unknown}")
        values = {name: fields.get(name) for name in FIELDS}
        if isinstance(values["uris"], str):
            values = {name: [value] for name, value in values.items()}
        elif isinstance(values["uris"], list | tuple):
            for name in ("loadFileTypes", "nodeNames", "loadFiles", "checksums"):
                if values[name] is None:
                    values[name] = [None] * len(values["uris"])
        if len({len(value) for value in values.values()}) != 1:  # raises TypeError for None, as Slicer does
            raise ValueError("All fields of sample data source must have the same length")
        vars(self).update(values)
        self.sampleName = self.sampleDescription = sampleName
        self.customDownloader, self.thumbnailFileName = customDownloader, thumbnailFileName


class SampleDataLogic:
    @staticmethod
    def registerCustomSampleDataCategory(category, title):
        categories = vars(slicer.modules).setdefault("sampleDataSourceCategories", {})
        categories.setdefault(category, {})["title"] = title

    @staticmethod
    def registerCustomSampleDataSource(category="Custom", **options):
        sources = vars(slicer.modules).setdefault("sampleDataSources", {})
        sources.setdefault(category, []).append(SampleDataSource(**options))
