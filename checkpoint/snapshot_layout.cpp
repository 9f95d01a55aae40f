#include "checkpoint/snapshot_layout.h"

#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/numeric.h"

namespace thimble {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kArrayAlignment = 64;
constexpr std::string_view kName = "a snapshot in memory";

DType dtype_of(std::string_view name) {
  for (const DType dtype :
       {DType::kF32, DType::kBF16, DType::kF16, DType::kI32, DType::kU16, DType::kU8}) {
    if (dtype_name(dtype) == name) return dtype;
  }
  throw_system("{}: the type '{}' is not known", kName, name);
}

// Bytes of a tensor whose shape nobody has checked.
std::int64_t checked_bytes(const CheckpointTensor& tensor) {
  std::int64_t bytes = dtype_size(tensor.dtype);
  for (const std::int64_t size : tensor.shape) {
    if (size < 0 || __builtin_mul_overflow(bytes, size, &bytes))
      throw_system("{}: tensor {} has no such shape", kName, tensor.name);
  }
  return bytes;
}

SnapshotArray array_of(const Json& json, std::int64_t& end) {
  SnapshotArray array{.tensor = {.name = json.at("name"),
                                 .slot = json.at("slot"),
                                 .dtype = dtype_of(json.at("dtype").get<std::string>()),
                                 .shape = json.at("shape"),
                                 .transposed = json.at("transposed")},
                      .own = {json.at("begin"), json.at("size")},
                      .offset = json.at("offset")};
  const std::int64_t bytes = checked_bytes(array.tensor);
  if (array.own.begin < 0 || array.own.size < 0 || array.own.begin > bytes ||
      array.own.size > bytes - array.own.begin || array.offset < end)
    throw_system("{}: tensor {} has no such bytes", kName, array.tensor.name);
  if (__builtin_add_overflow(array.offset, array.own.size, &end))
    throw_system("{}: tensor {} has no such place", kName, array.tensor.name);
  return array;
}

}  // namespace

std::string snapshot_text(const SnapshotText& snapshot) {
  Json arrays = Json::array();
  for (const SnapshotArray& array : snapshot.arrays) {
    arrays.push_back({{"name", array.tensor.name},
                      {"slot", array.tensor.slot},
                      {"dtype", dtype_name(array.tensor.dtype)},
                      {"shape", array.tensor.shape},
                      {"transposed", array.tensor.transposed},
                      {"begin", array.own.begin},
                      {"size", array.own.size},
                      {"offset", array.offset}});
  }
  return Json{{"step", snapshot.step},
              {"start", snapshot.start},
              {"rank", snapshot.rank},
              {"ranks", snapshot.ranks},
              {"metadata", snapshot.metadata},
              {"data_bytes", snapshot.data_bytes},
              {"arrays", arrays}}
      .dump();
}

SnapshotText parse_snapshot_text(std::string_view text) {
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) throw_system("{}: its text is damaged", kName);
  try {
    SnapshotText snapshot{.step = json.at("step"),
                          .start = json.at("start"),
                          .rank = json.at("rank"),
                          .ranks = json.at("ranks"),
                          .metadata = json.at("metadata"),
                          .data_bytes = json.at("data_bytes")};
    std::int64_t end = 0;
    for (const Json& array : json.at("arrays")) snapshot.arrays.push_back(array_of(array, end));
    if (end > snapshot.data_bytes || snapshot.rank < 0 || snapshot.rank >= snapshot.ranks)
      throw_system("{}: its text contradicts itself", kName);
    return snapshot;
  } catch (const nlohmann::json::exception& e) {
    throw_system("{}: its text is incomplete: {}", kName, e.what());
  }
}

std::int64_t place_arrays(std::span<const CheckpointArray> arrays,
                          std::vector<SnapshotArray>& placed) {
  std::int64_t end = 0;
  for (const CheckpointArray& array : arrays) {
    placed.push_back({array.tensor, array.own, end});
    end = round_up(end + array.own.size, kArrayAlignment);
  }
  return end;
}

SnapshotRoom snapshot_room(const StateTable& table, int rank) {
  const std::vector<CheckpointArray> arrays = checkpoint_arrays_of_all_steps(table, rank);
  SnapshotText widest;
  widest.data_bytes = place_arrays(arrays, widest.arrays);
  constexpr std::int64_t kNumbers = 256;  // step, start and ranks, in digits
  return {
      .text_bytes =
          narrow<std::int64_t>(snapshot_text(widest).size()) + kNumbers + kSnapshotMetadataBytes,
      .pieces = narrow<std::int64_t>(pieces_to_write(table, arrays, kSnapshotPieceBytes).size()),
      .data_bytes = widest.data_bytes};
}

}  // namespace thimble
