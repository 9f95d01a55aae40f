#include "models/weights_hash.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "core/base/numeric.h"
#include "core/base/sha256.h"
#include "core/base/threads.h"
#include "core/io/safetensors_model.h"

namespace thimble {
namespace {

constexpr std::int64_t kHashedBytes = 4 * kMiB;

void add_pieces(const SafetensorsModel::Location& tensor, Sha256& hash) {
  const std::int64_t bytes = tensor.entry->bytes;
  std::vector<Sha256::Digest> digests(static_cast<std::size_t>(ceil_div(bytes, kHashedBytes)));
  parallel_for_each(static_cast<std::int64_t>(digests.size()), kHashedBytes, [&](std::int64_t i) {
    const std::int64_t begin = i * kHashedBytes;
    std::vector<std::byte> piece(static_cast<std::size_t>(std::min(kHashedBytes, bytes - begin)));
    tensor.file->read(*tensor.entry, begin, piece);
    Sha256 own;
    own.add(piece);
    digests[static_cast<std::size_t>(i)] = own.finish();
  });
  for (const Sha256::Digest& digest : digests) hash.add(std::as_bytes(std::span(digest)));
}

}  // namespace

std::string weights_sha256(const std::filesystem::path& directory) {
  const SafetensorsModel model = SafetensorsModel::open(directory);
  Sha256 hash;
  for (const auto& [name, location] : model.tensors()) {
    const std::string line = fmt::format("{} {} [{}]\n", name, location.entry->dtype_text,
                                         fmt::join(location.entry->shape, ", "));
    hash.add(std::as_bytes(std::span(line)));
    add_pieces(location, hash);
  }
  return hex_of(hash.finish());
}

}  // namespace thimble
