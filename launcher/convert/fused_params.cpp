#include "launcher/convert/fused_params.h"

#include <algorithm>
#include <functional>

#include "core/base/error.h"
#include "models/fused_tensors.h"

namespace thimble {
namespace {

// Rows of another array, from an element on.
class RowsReader final : public ArrayReader {
 public:
  RowsReader(std::shared_ptr<const ArrayReader> whole, std::int64_t begin)
      : whole_(std::move(whole)), begin_(begin) {}
  void read(std::int64_t first, std::span<std::byte> out) const override {
    whole_->read(begin_ + first, out);
  }

 private:
  std::shared_ptr<const ArrayReader> whole_;
  std::int64_t begin_;
};

// Arrays of one width and dtype, one below the other.
class StackedReader final : public ArrayReader {
 public:
  explicit StackedReader(std::vector<StoredArray> parts) : parts_(std::move(parts)) {}
  void read(std::int64_t first, std::span<std::byte> out) const override {
    for (const StoredArray& part : parts_) {
      if (first >= part.numel() || out.empty()) {
        first -= part.numel();
        continue;
      }
      const auto bytes = static_cast<std::size_t>((part.numel() - first) * dtype_size(part.dtype));
      const std::span<std::byte> here = out.first(std::min(out.size(), bytes));
      part.reader->read(first, here);
      out = out.subspan(here.size());
      first = 0;
    }
  }

 private:
  std::vector<StoredArray> parts_;
};

using Fields = std::function<StoredArray(const StoredArray&)>;

ImageParam each_array(const ImageParam& of, const Fields& f) {
  const auto maybe = [&](const std::optional<StoredArray>& array) {
    return array ? std::optional(f(*array)) : std::nullopt;
  };
  return {.weight = f(of.weight),
          .master = maybe(of.master),
          .exp_avg = maybe(of.exp_avg),
          .exp_avg_sq = maybe(of.exp_avg_sq)};
}

void stack(StoredArray& onto, const StoredArray& part) {
  std::vector<StoredArray> both{onto, part};
  onto.shape[0] += part.shape[0];
  onto.reader = std::make_shared<StackedReader>(std::move(both));
}

void stack(std::optional<StoredArray>& onto, const std::optional<StoredArray>& part) {
  if (onto && part) stack(*onto, *part);
}

}  // namespace

void split_fused(CheckpointImage& image, const ParamTable& params) {
  std::vector<std::string> wholes;
  for (const ParamId id : params.ids()) {
    const ParamInfo& info = params.info(id);
    const std::optional<FusedPlace> place = fused_place(params, info.name);
    if (!place || image.params.contains(info.name)) continue;
    const auto whole = image.params.find(place->name);
    if (whole == image.params.end()) continue;
    const Extents& shape = whole->second.weight.shape;
    if (shape != Extents{place->rows, info.shape[1]}) {
      throw_user("{}: tensor {} is [{}], config.json asks for [{}, {}]", image.path.string(),
                 place->name, fmt::join(shape, ", "), place->rows, info.shape[1]);
    }
    const auto rows_of = [&](const StoredArray& array) {
      StoredArray part = array;
      part.name += fmt::format(" from row {}", place->first_row);
      part.shape[0] = info.shape[0];
      part.reader = std::make_shared<RowsReader>(array.reader, place->first_row * array.row());
      return part;
    };
    image.params.emplace(info.name, each_array(whole->second, rows_of));
    wholes.push_back(place->name);
  }
  for (const std::string& name : wholes) image.params.erase(name);
}

void join_fused(CheckpointImage& image, const ParamTable& params) {
  for (const ParamId id : params.ids()) {
    const ParamInfo& info = params.info(id);
    const std::optional<FusedPlace> place = fused_place(params, info.name);
    const auto part = place ? image.params.find(info.name) : image.params.end();
    if (part == image.params.end()) continue;
    const auto [whole, is_first] = image.params.try_emplace(place->name, part->second);
    if (!is_first) {
      stack(whole->second.weight, part->second.weight);
      stack(whole->second.master, part->second.master);
      stack(whole->second.exp_avg, part->second.exp_avg);
      stack(whole->second.exp_avg_sq, part->second.exp_avg_sq);
    }
    image.params.erase(part);
  }
}

}  // namespace thimble
