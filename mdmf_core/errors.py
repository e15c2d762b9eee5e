"""Code acts on these errors; a caller's slip is a plain ``ValueError``."""


class MdmfError(Exception):
    """Base of every error that the pipeline raises on purpose; its text is fit to show a user."""


class SourceError(MdmfError):
    """A collection cannot be listed or opened: wrong path, wrong bucket, no access, or nothing in it."""


class SourceRefused(SourceError):
    """The store answers, and its answer is no: not there, or no access. Asking again does not help."""


class ChecksumDiffers(SourceError):
    """The bytes that were read are not those of which the store holds the checksum."""


class ShardUnfinished(MdmfError):
    """A shard is still being written, or changed meanwhile. It is deferred with this reason and taken up by the next run."""


class ShardCorrupt(MdmfError):
    """A shard cannot be read as an archive. It is marked failed; none of its rows land."""


class LabelError(MdmfError):
    """A labelled set from which nothing honest can be learned or measured: too small, one group, overlaps."""


class ArtifactError(MdmfError):
    """A scorer, bank or calibration on disk is missing, damaged, or was not made for the others in use."""


class WarehouseError(MdmfError):
    """The warehouse cannot be opened, written or trusted."""


class PartDamaged(WarehouseError):
    """A shard's part cannot be read. It concerns no other shard."""


class WarehouseHeld(WarehouseError):
    """Others held the warehouse for as long as one was ready to wait. Nothing is lost; try again later."""


class KeepListError(MdmfError):
    """A keep-list is damaged, was made by another scorer or for another corpus, or the corpus has changed since."""
