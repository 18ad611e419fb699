"""A folder that changes as Kubernetes changes a mounted Secret or ConfigMap."""

from pathlib import Path


class SecretVolume:
    """tenants.toml leads to ..data/tenants.toml, and ..data to the folder of its latest content."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._contents = 0
        self.file = folder / "tenants.toml"
        self.file.symlink_to(Path("..data", self.file.name))

    def put(self, text: str) -> None:
        """Replace the content, all at once; the older one is removed afterwards."""
        data, beside = self._folder / "..data", self._folder / "..data_tmp"
        older = data.resolve() if data.is_symlink() else None
        self._contents += 1
        newer = self._folder / f"..{self._contents}"
        newer.mkdir()
        (newer / self.file.name).write_text(text)
        beside.symlink_to(newer.name)
        beside.replace(data)
        if older is not None:
            (older / self.file.name).unlink()
            older.rmdir()
