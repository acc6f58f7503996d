"""The failure table: what a client did wrong, or the service can not do, as status and code."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sample_pictures import encoded
from scripted_jobs import Script, StageState

from deployments.checkpoints.method import MethodConfig
from deployments.preprocess.pipeline import PreprocessPipeline
from serve_app.ingress.problems import MEDIA_TYPE


def bomb(side: int = 20_000) -> bytes:
    """A PNG of some bytes whose header promises 400 megapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def animation() -> bytes:
    frames = [Image.new("RGB", (100, 100), color) for color in ("red", "green", "blue")]
    return encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])


FILES: list[tuple[str, bytes, int, str, str]] = [
    ("empty", b"", 400, "image_empty", "0 bytes"),
    ("text.png", b"this is no picture at all, only its name says so", 400, "image_format", "PNG"),
    ("gif.png", encoded(Image.new("P", (90, 90)), "GIF"), 400, "image_format", "JPEG"),
    ("bomb.png", bomb(), 413, "image_pixels", "at most 50 megapixels"),
    ("tiny.png", encoded(Image.new("RGBA", (9, 99)), "PNG"), 400, "image_too_small", "64"),
    ("animation.webp", animation(), 400, "image_format", "3 frames"),
    (
        "cut.png",
        encoded(Image.effect_noise((200, 200), 9), "PNG")[:3000],
        400,
        "image_truncated",
        "",
    ),
]

OPTIONS: list[tuple[dict[str, str], str]] = [
    ({"stage1_steps": "29"}, "stage1_steps is '29': must be 30 to 100"),
    ({"stage1_steps": "101"}, "must be 30 to 100"),
    ({"stage2_steps": "14"}, "stage2_steps is '14': must be 15 to 40"),
    ({"stage2_steps": "41"}, "must be 15 to 40"),
    ({"stage1_steps": "many"}, "must be a valid integer"),
    ({"mode": "turbo"}, "must be 'official', 'stage1-only' or 'graceful-fallback'"),
    ({"stage1_only": "true", "graceful_fallback": "true"}, "exclude each other"),
    ({"mode": "official", "stage1_only": "true"}, "exclude each other"),
    ({"seed": "-1"}, "must be 0 to 4294967295"),
    ({"guidance": "nan"}, "must be 0 to 20"),
    ({"texture_size": "100"}, "must be 256 to 16384"),
    ({"texture_size": "8192"}, "must be 256 to 4096 on this service"),
    ({"simplify": "1"}, "must be 0 to 0.99"),
    ({"formats": "splats,stl"}, "must be 'splats' or 'obj'"),
    ({"stage3_steps": "5"}, "no such field"),
    ({"download": "perhaps"}, "must be a valid boolean"),
]


def check(response: Any, status: int, code: str, words: str) -> dict[str, Any]:
    problem: dict[str, Any] = response.json()
    assert (response.status_code, problem["code"]) == (status, code), problem
    assert response.headers["content-type"] == MEDIA_TYPE
    assert problem["status"] == status
    assert problem["type"] == f"urn:synchuman:problem:{code}"
    assert problem["request_id"] == response.headers["x-request-id"]
    assert words in problem["detail"]
    assert "Traceback" not in response.text
    return problem


@pytest.mark.parametrize(
    ("name", "data", "status", "code", "words"), FILES, ids=[row[0] for row in FILES]
)
def test_pictures(
    make_service: Any, name: str, data: bytes, status: int, code: str, words: str
) -> None:
    client, jobs = make_service()
    response = client.post("/generate", files={"image": (name, data)})
    check(response, status, code, words)
    assert jobs.requests == []


UNFIT = [
    ("transparent", Image.new("RGBA", (300, 300)), "no_subject", "shows nothing"),
    ("opaque", Image.new("RGB", (300, 300), "teal"), "background_not_removed", ""),
]


@pytest.mark.parametrize(("name", "picture", "code", "words"), UNFIT, ids=[row[0] for row in UNFIT])
def test_pictures_that_show_their_fault_in_preparation(
    make_service: Any, name: str, picture: Image.Image, code: str, words: str
) -> None:
    client, jobs = make_service()
    jobs.script = Script(prepare=PreprocessPipeline(MethodConfig(), matting="none"))
    response = client.post("/generate", files={"image": (f"{name}.png", encoded(picture, "PNG"))})
    problem = check(response, 400, code, words)
    assert problem["job_id"] == jobs.requests[0].job_id


@pytest.mark.parametrize(("fields", "words"), OPTIONS)
def test_options(make_service: Any, person: bytes, fields: dict[str, str], words: str) -> None:
    client, jobs = make_service()
    response = client.post("/generate", files={"image": ("i.png", person)}, data=fields)
    check(response, 422, "options_invalid", words)
    assert jobs.requests == []


def test_a_range_is_told_in_members(make_service: Any, person: bytes) -> None:
    client, _ = make_service()
    response = client.post(
        "/generate", files={"image": ("i.png", person)}, data={"stage1_steps": "500"}
    )
    problem = response.json()
    assert problem["field"] == "stage1_steps"
    assert problem["value"] == "500"
    assert problem["rule"] == "must be 30 to 100"
    assert problem["remedy"] == "Send a value in that range"


def test_no_picture(make_service: Any) -> None:
    client, _ = make_service()
    check(client.post("/generate"), 400, "image_missing", "neither image nor image_url")
    check(client.post("/generate", data={"seed": "1"}), 400, "image_missing", "curl -F image=@")
    blank = {"image": "", "image_url": ""}
    check(client.post("/generate", data=blank), 400, "image_missing", "neither")


def test_a_picture_and_an_address(make_service: Any, person: bytes) -> None:
    client, _ = make_service()
    response = client.post(
        "/generate",
        files={"image": ("i.png", person)},
        data={"image_url": "https://example.com/image.png"},
    )
    check(response, 400, "image_conflict", "exactly one")


def test_text_where_the_file_belongs(make_service: Any) -> None:
    client, _ = make_service()
    response = client.post("/generate", data={"image": "image.png"})
    check(response, 422, "options_invalid", "must be a file")


def test_official_without_stage2(make_service: Any, person: bytes) -> None:
    client, jobs = make_service()
    reason = "kaolin 0.1 is PyPI's placeholder"
    jobs.stages["stage2"] = StageState(state="failed", reason=reason)
    files = {"image": ("i.png", person)}
    response = client.post("/generate", files=files)
    problem = check(response, 503, "stage2_unavailable", reason)
    assert problem["reason"] == reason
    assert int(response.headers["retry-after"]) > 0
    assert "graceful_fallback=true" in problem["detail"]
    for remedy in ("graceful_fallback", "stage1_only"):
        assert client.post("/generate", files=files, data={remedy: "true"}).status_code == 200


@pytest.mark.parametrize("mode", ["official", "stage1-only", "graceful-fallback"])
def test_nothing_goes_without_stage1(make_service: Any, person: bytes, mode: str) -> None:
    client, jobs = make_service(mode=mode)
    del jobs.stages["stage1"]
    response = client.post("/generate", files={"image": ("i.png", person)})
    check(response, 503, "stage1_unavailable", "Stage 1 can not run")


def test_a_starting_stage_is_waited_for(make_service: Any, person: bytes) -> None:
    client, jobs = make_service()
    jobs.stages["stage2"] = StageState(state="starting")
    assert client.post("/generate", files={"image": ("i.png", person)}).status_code == 200


def test_stage2_can_not_be_forced(make_service: Any, person: bytes) -> None:
    client, _ = make_service(mode="stage1-only")
    response = client.post(
        "/generate", files={"image": ("i.png", person)}, data={"mode": "official"}
    )
    problem = check(response, 422, "mode_unavailable", "stage1-only")
    assert problem["rule"] == "the service's mode is stage1-only"


def test_storage_away(make_service: Any, person: bytes, tmp_path: Any) -> None:
    client, jobs = make_service()
    (tmp_path / "tmp_api_jobs").write_text("a file where the folder belongs")
    response = client.post("/generate", files={"image": ("i.png", person)})
    check(response, 503, "storage_unavailable", "tmp_api_jobs")
    assert jobs.requests == []


def test_an_unforeseen_error_tells_no_secrets(make_service: Any, person: bytes) -> None:
    client, jobs = make_service()

    async def broken(request: object) -> None:
        raise RuntimeError("password=hunter2")

    jobs.submit = broken
    response = client.post("/generate", files={"image": ("i.png", person)})
    check(response, 500, "internal_error", "request id")
    assert "hunter2" not in response.text


def test_unknown_places(make_service: Any) -> None:
    client, _ = make_service()
    check(client.get("/nowhere"), 404, "not_found", "Not Found")
    check(client.get("/generate"), 405, "method_not_allowed", "")


def test_jpeg_and_webp_are_welcome(make_service: Any) -> None:
    client, jobs = make_service()
    picture = Image.new("RGB", (100, 200), "teal")
    for kind, suffix in (("JPEG", ".jpg"), ("WEBP", ".webp")):
        files = {"image": ("photo", io.BytesIO(encoded(picture, kind)))}
        assert client.post("/generate", files=files).status_code == 200
        assert jobs.requests[-1].input_path.endswith(suffix)


def test_a_damaged_file_is_a_problem_and_no_byte_of_it_goes_out(
    make_service: Any, person: bytes
) -> None:
    client, _ = make_service()
    job = client.post("/generate", files={"image": person}).json()["job_id"]
    glb = Path("tmp_api_jobs") / job / "1" / "stage2" / "output.glb"
    glb.write_bytes(glb.read_bytes()[:-1])
    for path in ("files/stage2/output.glb", "result.zip"):
        response = client.get(f"/jobs/{job}/{path}")
        assert response.status_code == 500
        assert response.json()["code"] == "artifact_damaged"
    assert client.get(f"/jobs/{job}/files/stage1/color_0.png").status_code == 200
