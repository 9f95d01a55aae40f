// DeepSpeed's ZeRO checkpoints. Optimizer state lies in flat partitions, one per rank and group of
// parameters; read_deepspeed.cpp is the other direction.
#include <algorithm>
#include <list>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "launcher/convert/array_runs.h"
#include "launcher/convert/deepspeed_pickles.h"
#include "launcher/convert/output_files.h"

namespace thimble {
namespace {

// Partitions begin at multiples of so many elements per rank (stages 1 and 2).
constexpr std::int64_t kAlignment = 2;

// Parameters in one flat array.
struct ZeroGroup {
  std::vector<std::string> params = {};
  std::size_t of_optimizer = 0;  // number of the optimizer's group that they belong to
  bool decays = true;
};

// A part of a parameter in a rank's partition.
struct ZeroRun {
  std::string name;
  std::int64_t begin, count;  // of the parameter
  std::int64_t place;         // in the partition
};

// What a rank has of a group: `real` elements of parameters, then padding.
struct ZeroPartition {
  std::int64_t numel = 0, real = 0;
  std::vector<ZeroRun> runs = {};
};

class ZeroLayout {
 public:
  ZeroLayout(const CheckpointImage& image, const WriteOptions& options)
      : image_(image), ranks_(options.ranks), stage_(options.zero_stage) {
    optimizer_groups_ = groups_of_optimizer(options.trainer_groups);
    groups_ = stage_ == 3 ? sub_groups(options.sub_group_size) : optimizer_groups_;
  }

  std::vector<OutputFile> all() const {
    std::vector<OutputFile> files = config_output(image_);
    const std::string folder = deepspeed_tag(image_) + "/";
    const char* prefix = image_.dtype == DType::kBF16 ? "bf16_" : "";
    for (std::int64_t r = 0; r < ranks_; ++r) {
      files.push_back(torch_output(
          fmt::format("{}{}zero_pp_rank_{}_mp_rank_00_optim_states.pt", folder, prefix, r),
          rank_bytes(r), [this, r](TorchWriter& out) { return fill_optimizer(out, r); }));
    }
    // Without values in stage 3, whose weights come from the masters.
    for (std::int64_t r = 0; r < (stage_ == 3 ? ranks_ : 1); ++r) {
      const std::string name =
          stage_ == 3 ? fmt::format("zero_pp_rank_{}_mp_rank_00", r) : "mp_rank_00";
      files.push_back(torch_output(folder + name + "_model_states.pt",
                                   stage_ == 3 ? 0 : weight_bytes(),
                                   [this](TorchWriter& out) { return fill_model(out); }));
    }
    files.push_back(text_output("latest", deepspeed_tag(image_)));
    return files;
  }

 private:
  std::int64_t numel(const std::string& name) const {
    return image_.params.at(name).weight.numel();
  }

  // One group of all parameters, or what decays and what does not.
  std::vector<ZeroGroup> groups_of_optimizer(bool split) const {
    std::vector<ZeroGroup> groups{{}, {.decays = false}};
    for (const std::string& name : definition_order(image_)) {
      const bool decays = !split || image_.params.at(name).weight.shape.size() >= 2;
      groups[decays ? 0 : 1].params.push_back(name);
    }
    std::erase_if(groups, [](const ZeroGroup& g) { return g.params.empty(); });
    for (std::size_t i = 0; i < groups.size(); ++i) groups[i].of_optimizer = i;
    return groups;
  }

  // A group of the optimizer is cut after the parameter with which a rank has `size` elements.
  std::vector<ZeroGroup> sub_groups(std::int64_t size) const {
    std::vector<ZeroGroup> out;
    for (const ZeroGroup& group : optimizer_groups_) {
      std::int64_t held = size;
      for (const std::string& name : group.params) {
        if (held >= size) {
          out.push_back({.of_optimizer = group.of_optimizer, .decays = group.decays});
          held = 0;
        }
        out.back().params.push_back(name);
        held += ceil_div(numel(name), ranks_);
      }
    }
    return out;
  }

  ZeroPartition partition(const ZeroGroup& group, std::int64_t rank) const {
    return stage_ == 3 ? cut_parameters(group, rank) : cut_group(group, rank);
  }

  // Stages 1 and 2: the flat group is cut into equal partitions, whatever lies there.
  ZeroPartition cut_group(const ZeroGroup& group, std::int64_t rank) const {
    std::int64_t all = 0;
    for (const std::string& name : group.params) all += numel(name);
    ZeroPartition out{.numel = round_up(all, kAlignment * ranks_) / ranks_};
    const std::int64_t begin = rank * out.numel, end = begin + out.numel;
    out.real = std::clamp<std::int64_t>(all - begin, 0, out.numel);
    std::int64_t at = 0;
    for (const std::string& name : group.params) {
      const std::int64_t from = std::max(at, begin), to = std::min(at + numel(name), end);
      if (from < to) out.runs.push_back({name, from - at, to - from, from - begin});
      at += numel(name);
    }
    return out;
  }

  // Stage 3: every parameter is cut into equal runs, the last ones padded.
  ZeroPartition cut_parameters(const ZeroGroup& group, std::int64_t rank) const {
    ZeroPartition out;
    for (const std::string& name : group.params) {
      const std::int64_t part = ceil_div(numel(name), ranks_), begin = rank * part;
      const std::int64_t count = std::clamp<std::int64_t>(numel(name) - begin, 0, part);
      if (count > 0) out.runs.push_back({name, begin, count, out.numel});
      out.numel += part;
    }
    out.real = out.numel;
    return out;
  }

  std::int64_t rank_bytes(std::int64_t rank) const {
    std::int64_t elements = 0;
    for (const ZeroGroup& group : groups_) elements += partition(group, rank).numel;
    return 3 * elements * dtype_size(DType::kF32);
  }
  std::int64_t weight_bytes() const {
    std::int64_t bytes = 0;
    for (const auto& [name, param] : image_.params) bytes += param.weight.bytes();
    return bytes;
  }

  using Arrays = std::list<StoredArray>;
  using Of = const StoredArray& (*)(const ImageParam& param);

  void put_flat(TorchWriter& out, Arrays& arrays, const ZeroPartition& partition,
                std::int64_t elements, Of of) const {
    std::vector<ArrayRun> runs;
    for (const ZeroRun& run : partition.runs)
      runs.push_back({of(image_.params.at(run.name)), run.begin, run.count, run.place});
    out.tensor(
        arrays.emplace_back(array_of_runs("a partition", DType::kF32, elements, std::move(runs))));
  }

  std::shared_ptr<void> fill_optimizer(TorchWriter& out, std::int64_t rank) const {
    auto arrays = std::make_shared<Arrays>();
    std::vector<ZeroPartition> held;
    for (const ZeroGroup& group : groups_) held.push_back(partition(group, rank));
    PickleWriter& p = out.pickle;
    p.begin_dict();
    p.text("optimizer_state_dict");
    p.begin_dict();
    p.text("zero_stage");
    p.integer(stage_);
    put_scaler(p);
    stage_ == 3 ? put_stage_3(out, *arrays, held) : put_stages_1_2(out, *arrays, held);
    p.end_dict();
    p.text("ds_version");
    p.text(kDeepSpeedVersion);
    p.end_dict();
    return arrays;
  }

  void put_stages_1_2(TorchWriter& out, Arrays& arrays,
                      const std::vector<ZeroPartition>& held) const {
    PickleWriter& p = out.pickle;
    p.text("base_optimizer_state");
    put_base(out, arrays, held);
    // Masters are kept without the padding that moments have.
    p.text("single_partition_of_fp32_groups");
    put_list(p, held,
             [&](const ZeroPartition& part) { put_flat(out, arrays, part, part.real, master); });
    p.text("group_paddings");
    put_list(p, held, [&](const ZeroPartition& part) { p.integer(part.numel - part.real); });
    p.text("partition_count");
    put_list(p, held, [&](const ZeroPartition&) { p.integer(ranks_); });
    p.text("ds_version");
    p.text(kDeepSpeedVersion);
    p.text("param_slice_mappings");
    put_list(p, held, [&](const ZeroPartition& part) {
      put_ordered_dict(p);
      p.begin_items();
      for (const ZeroRun& run : part.runs) {
        p.text(run.name);
        put_fragment(p, run);
      }
      p.end_items();
    });
  }

  void put_stage_3(TorchWriter& out, Arrays& arrays, const std::vector<ZeroPartition>& held) const {
    PickleWriter& p = out.pickle;
    p.text("partition_count");
    p.integer(ranks_);
    p.text("optimizer_state_dict");
    put_base(out, arrays, held);
    p.text("fp32_flat_groups");
    put_list(p, held,
             [&](const ZeroPartition& part) { put_flat(out, arrays, part, part.numel, master); });
  }

  // The state of a torch optimizer whose parameters are the flat partitions.
  void put_base(TorchWriter& out, Arrays& arrays, const std::vector<ZeroPartition>& held) const {
    PickleWriter& p = out.pickle;
    p.begin_dict();
    p.text("state");
    p.begin_dict();
    for (std::size_t i = 0; i < held.size(); ++i) {
      p.integer(static_cast<std::int64_t>(i));
      p.begin_dict();
      p.text("step");
      out.scalar(static_cast<float>(image_.step));
      p.text("exp_avg");
      put_flat(out, arrays, held[i], held[i].numel,
               [](const ImageParam& param) -> const StoredArray& { return *param.exp_avg; });
      p.text("exp_avg_sq");
      put_flat(out, arrays, held[i], held[i].numel,
               [](const ImageParam& param) -> const StoredArray& { return *param.exp_avg_sq; });
      p.end_dict();
    }
    p.end_dict();
    p.text("param_groups");
    std::int64_t first = 0;
    put_list(p, optimizer_groups_, [&](const ZeroGroup& group) {
      const auto count = std::count_if(groups_.begin(), groups_.end(), [&](const ZeroGroup& g) {
        return g.of_optimizer == group.of_optimizer;
      });
      put_optimizer_group(p, image_, {.first = first, .count = count, .decays = group.decays});
      first += count;
    });
    p.end_dict();
  }

  std::shared_ptr<void> fill_model(TorchWriter& out) const {
    auto arrays = std::make_shared<Arrays>();
    PickleWriter& p = out.pickle;
    p.begin_dict();
    p.text("module");
    put_ordered_dict(p);
    p.begin_items();
    const auto weight = [&](const std::string& name, const StoredArray& values) {
      p.text(name);
      if (stage_ == 3) {
        out.tensor(arrays->emplace_back(array_of_runs("nothing", values.dtype, 0, {})));
      } else {
        out.tensor(values);
      }
    };
    for (const std::string& name : definition_order(image_))
      weight(name, image_.params.at(name).weight);
    for (const auto& [alias, name] : image_.aliases) weight(alias, image_.params.at(name).weight);
    p.end_items();
    p.text("param_shapes");
    put_list(p, groups_, [&](const ZeroGroup& group) { put_shapes(p, group); });
    for (const char* key : {"frozen_param_shapes", "frozen_param_fragments"}) {
      p.text(key);
      p.none();
    }
    put_engine_items(p, image_, {.stage = stage_, .ranks = ranks_});
    p.end_dict();
    return arrays;
  }

  void put_shapes(PickleWriter& p, const ZeroGroup& group) const {
    put_ordered_dict(p);
    p.begin_items();
    for (const std::string& name : group.params) {
      p.text(name);
      p.global("torch", "Size");
      p.begin_tuple();
      p.integers(image_.params.at(name).weight.shape);
      p.end_tuple();
      p.call();
    }
    p.end_items();
  }

  template <typename Items, typename Put>
  static void put_list(PickleWriter& p, const Items& items, Put&& put) {
    p.begin_list();
    for (const auto& item : items) put(item);
    p.end_list();
  }

  static void put_fragment(PickleWriter& p, const ZeroRun& run) {
    p.global("deepspeed.utils.tensor_fragment", "fragment_address");
    p.begin_tuple();
    p.end_tuple();
    p.make();
    p.begin_dict();
    p.text("numel");
    p.integer(run.count);
    p.text("start");
    p.integer(run.place);
    p.end_dict();
    p.build();
  }

  // Of a loss that is not scaled.
  static void put_scaler(PickleWriter& p) {
    p.text("loss_scaler");
    p.global("deepspeed.runtime.fp16.loss_scaler", "LossScaler");
    p.begin_tuple();
    p.end_tuple();
    p.make();
    p.begin_dict();
    p.text("cur_scale");
    p.number(1.0);
    p.text("dynamic");
    p.boolean(false);
    p.end_dict();
    p.build();
    for (const char* key : {"dynamic_loss_scale", "overflow"}) {
      p.text(key);
      p.boolean(false);
    }
  }

  static const StoredArray& master(const ImageParam& param) { return param.best(); }

  const CheckpointImage& image_;
  std::int64_t ranks_, stage_;
  std::vector<ZeroGroup> optimizer_groups_, groups_;
};

}  // namespace

std::vector<OutputFile> zero_files(const CheckpointImage& image, const WriteOptions& options) {
  TH_CHECK(image.has_state() && options.ranks >= 1);
  const auto layout = std::make_shared<ZeroLayout>(image, options);
  std::vector<OutputFile> files = layout->all();
  for (OutputFile& file : files) {
    file.write = [layout, write = std::move(file.write)](const std::filesystem::path& path,
                                                         std::int64_t window_bytes) {
      write(path, window_bytes);
    };
  }
  return files;
}

}  // namespace thimble
