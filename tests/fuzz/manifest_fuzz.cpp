// libFuzzer target: any bytes as a checkpoint's MANIFEST either parse or raise a UserError; with
// their checksum made right, too. What was parsed survives being written and read again, and its
// tensors lie in their file.
#include <fmt/format.h>

#include "checkpoint/manifest.h"
#include "core/base/error.h"
#include "core/io/crc32c.h"

namespace {

void check(std::string_view text) {
  using namespace thimble;
  Manifest manifest;
  try {
    manifest = parse_manifest(text, "MANIFEST");
  } catch (const UserError&) {
    return;
  }
  for (const ManifestTensor& t : manifest.tensors) {
    TH_CHECK(t.offset >= 0 && t.bytes >= 0 && t.offset <= manifest.file_bytes - t.bytes,
             "a tensor outside its file");
  }
  TH_CHECK(parse_manifest(manifest_text(manifest), "MANIFEST") == manifest, "the manifest differs");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  check(text);
  const std::uint32_t crc = thimble::crc32c(std::as_bytes(std::span(text)));
  check(fmt::format("{}{{\"manifest_crc32c\":\"{:08x}\"}}\n", text, crc));
  return 0;
}
