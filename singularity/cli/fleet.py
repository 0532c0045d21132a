"""The fleet file: which regions, clusters, nodes and devices a planet has.

regions:
  us-east:
    clusters:
      use1-a: {nodes: 2, device: cpu, devices: 4, racks: 1}
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from singularity.primitives.errors import InvalidSpec

_NODES_MOST: Final = 255  # each gets 256 addresses of a /16, the last ones stay free
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]


@dataclass(frozen=True, slots=True)
class NodePlace:
    """One node to be: `index` counts over the whole planet."""

    name: str
    index: int
    region: str
    cluster: str
    device: str
    devices: int
    rack: str = ""


class Cluster(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: int = Field(ge=1, le=_NODES_MOST)
    device: Name = "cpu"
    devices: int = Field(default=4, ge=1, le=1024)
    racks: int = Field(default=1, ge=1, le=_NODES_MOST)  # nodes are divided among them, in order


class Region(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    clusters: dict[Name, Cluster] = Field(min_length=1)


class Fleet(BaseModel):
    """Strict: a key that is not known is refused, for it is a mistake more often than a wish."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    regions: dict[Name, Region] = Field(min_length=1)

    def nodes(self) -> tuple[NodePlace, ...]:
        """All nodes, named `<cluster>-<n>`, in the order of the file.

        Raises InvalidSpec when there are too many, or a cluster's name is used twice.
        """
        places = tuple(self._places())
        if len(places) > _NODES_MOST:
            raise InvalidSpec(f"{len(places)} nodes are more than the {_NODES_MOST} of one machine")
        names = [place.name for place in places]
        for name in names:
            if names.count(name) > 1:
                raise InvalidSpec(f"two nodes would be called {name}: rename a cluster")
        return places

    def _places(self) -> Iterator[NodePlace]:
        index = 0
        for region, inside in self.regions.items():
            for name, cluster in inside.clusters.items():
                for number in range(1, cluster.nodes + 1):
                    yield NodePlace(
                        name=f"{name}-{number}",
                        index=index,
                        region=region,
                        cluster=name,
                        device=cluster.device,
                        devices=cluster.devices,
                        rack=_rack(number - 1, cluster),
                    )
                    index += 1


def _rack(number: int, cluster: Cluster) -> str:
    return f"r{number * cluster.racks // cluster.nodes + 1}" if cluster.racks > 1 else ""


def default_fleet() -> Fleet:
    """Three regions of two nodes of four pretended devices: small, and still a planet."""
    names = {"us-east": "use1-a", "eu-north": "eun1-a", "ap-south": "aps1-a"}
    cluster = Cluster(nodes=2, device="cpu", devices=4)
    regions = {region: Region(clusters={name: cluster}) for region, name in names.items()}
    return Fleet(regions=regions)


def load_fleet(path: Path) -> Fleet:
    """Read a fleet file. Raises InvalidSpec, naming the place of the first thing wrong in it."""
    try:
        found = Fleet.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        found.nodes()
    except OSError as error:
        raise InvalidSpec(f"the fleet file {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"the fleet file {path} is not YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the top"
        raise InvalidSpec(f"the fleet file {path}, at {place}: {first['msg']}") from error
    return found
