#include "models/adapter_export.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/base/threads.h"
#include "core/io/file.h"
#include "core/io/safetensors.h"
#include "core/io/staged.h"
#include "core/ops/adapter_ops.h"
#include "models/adapter_source.h"
#include "models/export_rows.h"
#include "models/model_files.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

// A tensor of the file: a parameter, and, of a start from the largest singular values, what is
// joined to it: rows of where `a` began, or columns of the negative of where `b` began.
struct AdapterTensor {
  ParamId id;
  std::optional<ParamId> more_rows = {}, less_columns = {};
};

std::vector<std::int64_t> file_shape(const ParamTable& params, const AdapterTensor& tensor,
                                     const AdapterConfig& config) {
  const ParamInfo& info = params.info(tensor.id);
  std::vector<std::int64_t> shape(info.shape.dims().begin(), info.shape.dims().end());
  if (tensor.more_rows) shape[0] *= 2;
  if (tensor.less_columns) shape[1] *= 2;
  if (config.kind == AdapterKind::kIa3 && info.name.ends_with(".ia3_l")) {
    const bool inner = names_module(config.feedforward_modules, module_of(info.name));
    shape.insert(inner ? shape.begin() : shape.end(), 1);
  }
  return shape;
}

std::vector<AdapterTensor> tensors_of(const Transformer& model) {
  const Adapters& adapters = model.adapters();
  std::vector<AdapterTensor> tensors;
  for (const ParamId id : model.params().ids()) {
    const std::vector<ParamId>& shared = adapters.shared();
    if (std::find(shared.begin(), shared.end(), id) != shared.end()) {
      tensors.push_back({.id = id});
      continue;
    }
    const auto owner = std::find_if(
        adapters.matrices().begin(), adapters.matrices().end(), [&](const AdaptedMatrix& m) {
          const LinearAdapter& a = m.adapter;
          return id == a.a.id || id == a.b.id || id == m.first_a.id || id == m.first_b.id;
        });
    if (owner == adapters.matrices().end()) {
      if (model.params().info(id).trainable) tensors.push_back({.id = id});
      continue;
    }
    if (id == owner->first_a.id || id == owner->first_b.id) continue;
    AdapterTensor& tensor = tensors.emplace_back(AdapterTensor{.id = id});
    if (!owner->first_a.exists()) continue;
    if (id == owner->adapter.a.id) tensor.more_rows = owner->first_a.id;
    if (id == owner->adapter.b.id) tensor.less_columns = owner->first_b.id;
  }
  return tensors;
}

// The configuration of what the file holds.
AdapterConfig file_config(const AdapterConfig& config) {
  AdapterConfig out = config;
  if (config.init != AdapterInit::kPissa) return out;
  const double factor = config.rank_stabilised ? std::sqrt(2.0) : 2.0;
  out.init = AdapterInit::kDefault;
  out.rank *= 2;
  out.alpha *= factor;
  for (auto& [module, rank] : out.rank_pattern) rank *= 2;
  for (auto& [module, alpha] : out.alpha_pattern) alpha *= factor;
  return out;
}

class AdapterFile {
 public:
  AdapterFile(Arena& arena, const Transformer& model, ParamStore& store, DType dtype)
      : arena_(arena), model_(model), store_(store), dtype_(dtype), tensors_(tensors_of(model)) {}

  std::vector<SafetensorsSpec> specs() const {
    std::vector<SafetensorsSpec> specs;
    for (const AdapterTensor& tensor : tensors_) {
      specs.push_back({adapter_tensor_name(model_.params().info(tensor.id).name), dtype_,
                       file_shape(model_.params(), tensor, model_.adapters().config())});
    }
    return specs;
  }

  // Runs body(name, bytes, byte offset) over every tensor in slices, in order.
  template <typename Body>
  void for_slices(Body&& body) {
    for (const AdapterTensor& tensor : tensors_) {
      const Pin pin(store_, model_.block_of(tensor.id));
      const std::string name = adapter_tensor_name(model_.params().info(tensor.id).name);
      std::int64_t offset = 0;
      const auto pass_on = [&](const Tensor& rows) {
        if (arena_.device().planning) return;
        const std::span bytes(static_cast<const std::byte*>(rows.raw()),
                              static_cast<std::size_t>(rows.nbytes()));
        body(name, bytes, offset);
        offset += rows.nbytes();
      };
      for_rows(pin, tensor.id, tensor.less_columns, pass_on);
      if (tensor.more_rows) for_rows(pin, *tensor.more_rows, std::nullopt, pass_on);
    }
  }

 private:
  template <typename PassOn>
  void for_rows(const Pin& pin, ParamId id, std::optional<ParamId> less, PassOn&& pass_on) {
    const ParamInfo& info = model_.params().info(id);
    const std::int64_t cols = info.is_matrix() ? info.shape[1] : 1, rows = info.shape[0];
    const std::int64_t step = std::clamp<std::int64_t>(kExportBytes / (4 * cols), 1, rows);
    const Tensor stored = on_host(arena_, pin.view(id));
    const Tensor other = less ? on_host(arena_, pin.view(*less)) : Tensor();
    const auto piece = [&](DType dtype, std::int64_t width) {
      return Tensor::empty(arena_.pinned(), MemoryTag::kIo, dtype, Shape{step, width},
                           "adapter to export");
    };
    const Tensor gathered = piece(stored.dtype(), cols), out = piece(dtype_, cols);
    const Tensor minus = less ? piece(dtype_, cols) : Tensor();
    const Tensor joined = less ? piece(dtype_, 2 * cols) : Tensor();
    for (std::int64_t r = 0; r < rows; r += step) {
      const std::int64_t end = std::min(rows, r + step);
      const Tensor part = out.rows(0, end - r);
      if (!arena_.device().planning) export_rows(info, stored, {r, end}, gathered, part);
      if (!less) {
        pass_on(part);
        continue;
      }
      const Tensor taken = minus.rows(0, end - r), both = joined.rows(0, end - r);
      if (!arena_.device().planning)
        export_rows(model_.params().info(*less), other, {r, end}, gathered, taken);
      ops::scale_columns(taken, taken, {.scale = -1});
      if (!arena_.device().planning) join_columns(part, taken, both);
      pass_on(both);
    }
  }

  static void join_columns(const Tensor& left, const Tensor& right, const Tensor& both) {
    const std::int64_t row = left.nbytes() / left.dim(0);
    auto* to = static_cast<std::byte*>(both.raw());
    for (std::int64_t r = 0; r < left.dim(0); ++r) {
      const auto copy = [&](const Tensor& from, std::int64_t at) {
        std::memcpy(to + at, static_cast<const std::byte*>(from.raw()) + r * row,
                    static_cast<std::size_t>(row));
      };
      copy(left, 2 * r * row);
      copy(right, (2 * r + 1) * row);
    }
  }

  Arena& arena_;
  const Transformer& model_;
  ParamStore& store_;
  DType dtype_;
  std::vector<AdapterTensor> tensors_;
};

void write_adapter_tensors(AdapterFile& file, const fs::path& directory) {
  SafetensorsWriter writer(directory / kAdapterFileName, file.specs(), {{"format", "pt"}});
  file.for_slices(
      [&](const std::string& name, auto bytes, std::int64_t) { writer.write(name, bytes); });
  writer.finish();
}

void compare_adapter(Arena& arena, AdapterFile& file, const fs::path& directory) {
  const SafetensorsFile written = SafetensorsFile::open(directory / kAdapterFileName);
  const Reservation space =
      arena.pinned().reserve(MemoryTag::kIo, 2 * kExportBytes, "export check");
  file.for_slices([&](const std::string& name, auto bytes, std::int64_t offset) {
    const SafetensorsEntry* entry = written.find(name);
    if (entry == nullptr) throw_system("{}: tensor {} was not written", directory.string(), name);
    const std::span read(static_cast<std::byte*>(space.data()), bytes.size());
    written.read(*entry, offset, read);
    if (std::memcmp(read.data(), bytes.data(), bytes.size()) != 0) {
      throw_system("{}: tensor {} reads back differently from what was written", directory.string(),
                   name);
    }
  });
}

std::optional<fs::path> export_adapter(Arena& arena, const Transformer& model, ParamStore& store,
                                       const HfExport& options) {
  AdapterFile file(arena, model, store, options.dtype);
  if (!arena.device().planning && options.writes) {
    StagedDirectory staged(options.directory);
    write_file_atomic(
        staged.path() / kAdapterConfigName,
        adapter_config_json(file_config(model.adapters().config()), options.base_model));
    for (const fs::path& name : options.files_to_copy) copy_into(name, staged.path());
    write_adapter_tensors(file, staged.path());
    compare_adapter(arena, file, staged.path());
    return staged.put_in_place();
  }
  const Reservation space =
      arena.pinned().reserve(MemoryTag::kIo, 2 * kExportBytes, "export check");
  const auto nothing = [](const std::string&, auto, std::int64_t) {};
  file.for_slices(nothing);
  if (!arena.device().planning) file.for_slices(nothing);
  return std::nullopt;
}

}  // namespace

std::int64_t exported_elements(const Transformer& model) {
  if (model.adapters().empty()) return model.params().num_elements();
  std::int64_t elements = 0;
  for (const AdapterTensor& tensor : tensors_of(model)) {
    const std::int64_t own = model.params().info(tensor.id).shape.numel();
    elements += tensor.more_rows || tensor.less_columns ? 2 * own : own;
  }
  return elements;
}

std::optional<fs::path> export_trained(Arena& arena, const Transformer& model, ParamStore& store,
                                       const HfExport& options) {
  return model.adapters().empty() ? export_hf(arena, model, store, options)
                                  : export_adapter(arena, model, store, options);
}

}  // namespace thimble
