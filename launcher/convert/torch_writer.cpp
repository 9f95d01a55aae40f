#include "launcher/convert/torch_writer.h"

#include <string>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "launcher/convert/checkpoint_image.h"

namespace thimble {
namespace {

constexpr const char* kPrefix = "archive/";

const char* storage_name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "FloatStorage";
    case DType::kBF16:
      return "BFloat16Storage";
    default:
      TH_CHECK(dtype == DType::kF16, "no torch storage for {}", dtype_name(dtype));
      return "HalfStorage";
  }
}

}  // namespace

// torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)
void TorchWriter::rebuild(std::size_t storage, DType dtype, const Extents& shape) {
  pickle.global("torch._utils", "_rebuild_tensor_v2");
  pickle.begin_tuple();
  pickle.begin_tuple();
  pickle.text("storage");
  pickle.global("torch", storage_name(dtype));
  pickle.text(std::to_string(storage));
  pickle.text("cpu");
  pickle.integer(checked_numel(shape, "a tensor"));
  pickle.end_tuple();
  pickle.persistent();
  pickle.integer(0);
  pickle.integers(shape);
  pickle.integers(row_major_strides(shape));
  pickle.boolean(false);
  put_ordered_dict(pickle);
  pickle.end_tuple();
  pickle.call();
}

void TorchWriter::tensor(const StoredArray& array) {
  const auto [place, is_new] = places_.try_emplace(&array, storages_.size());
  if (is_new) storages_.push_back({&array, 0});
  rebuild(place->second, array.dtype, array.shape);
}

void TorchWriter::scalar(float value) {
  storages_.push_back({nullptr, value});
  rebuild(storages_.size() - 1, DType::kF32, {});
}

template <typename Values>
std::int64_t TorchWriter::write_entries(ZipWriter& zip, Values&& values) {
  zip.add(std::string(kPrefix) + "data.pkl", pickle.finish());
  zip.add(std::string(kPrefix) + "byteorder", "little");
  for (std::size_t i = 0; i < storages_.size(); ++i) {
    const auto& [array, value] = storages_[i];
    const std::string name = fmt::format("{}data/{}", kPrefix, i);
    zip.begin(name, array == nullptr ? narrow<std::int64_t>(sizeof(float)) : array->bytes());
    if (array == nullptr) {
      zip.write(std::as_bytes(std::span(&value, 1)));
    } else {
      values(*array);
    }
  }
  zip.add(std::string(kPrefix) + "version", "3\n");
  return zip.finish();
}

std::int64_t TorchWriter::write(File& file, std::int64_t offset, std::int64_t window_bytes) {
  ZipWriter zip(file, offset);
  std::vector<std::byte> window;
  return write_entries(zip, [&](const StoredArray& array) {
    for_rows(array, window_bytes, [&](std::int64_t first, std::int64_t count) {
      window.resize(static_cast<std::size_t>(count * dtype_size(array.dtype)));
      array.reader->read(first, window);
      zip.write(window);
    });
  });
}

std::int64_t TorchWriter::count() {
  ZipWriter zip = ZipWriter::counting();
  return write_entries(zip, [&](const StoredArray& array) { zip.count(array.bytes()); });
}

void put_ordered_dict(PickleWriter& pickle) {
  pickle.global("collections", "OrderedDict");
  pickle.begin_tuple();
  pickle.end_tuple();
  pickle.call();
}

void put_adam_settings(PickleWriter& pickle, const AdamSettings& adam) {
  const auto number = [&](const char* key, double value) {
    pickle.text(key);
    pickle.number(value);
  };
  number("lr", adam.lr);
  number("eps", adam.eps);
  number("weight_decay", adam.weight_decay);
  pickle.text("betas");
  pickle.begin_tuple();
  pickle.number(adam.beta1);
  pickle.number(adam.beta2);
  pickle.end_tuple();
}

void put_adam_flags(PickleWriter& pickle) {
  for (const char* key : {"amsgrad", "maximize", "capturable", "differentiable"}) {
    pickle.text(key);
    pickle.boolean(false);
  }
  for (const char* key : {"foreach", "fused"}) {
    pickle.text(key);
    pickle.none();
  }
}

}  // namespace thimble
