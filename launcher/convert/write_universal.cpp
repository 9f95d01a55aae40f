// DeepSpeed's universal checkpoints: a folder per parameter, and what ZeRO of every stage asks for
// beside them.
#include "core/base/error.h"
#include "core/base/text.h"
#include "launcher/convert/deepspeed_pickles.h"
#include "launcher/convert/output_files.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

// Names become folders, and a source may have any.
void check_names(const CheckpointImage& image) {
  for (const auto& [name, param] : image.params) {
    if (!is_plain_file_name(name))
      throw_user("{}: refused: parameter '{}' cannot be the name of a folder", image.path.string(),
                 printable(name, 200));
  }
}

OutputFile state_output(const std::string& folder, const char* name, const StoredArray& array) {
  return torch_output(folder + name, array.bytes(), [&array](TorchWriter& out) {
    out.pickle.begin_dict();
    out.pickle.text("param");
    out.tensor(array);
    out.pickle.end_dict();
    return nullptr;
  });
}

// What all parameters share: stages 1 and 2 read it at the top, stage 3 as a torch optimizer's.
void put_optimizer(TorchWriter& out, const CheckpointImage& image) {
  PickleWriter& pickle = out.pickle;
  const auto groups = [&] {
    pickle.text("param_groups");
    pickle.begin_list();
    put_optimizer_group(pickle, image, {});
    pickle.end_list();
  };
  pickle.begin_dict();
  pickle.text("ds_version");
  pickle.text(kDeepSpeedVersion);
  pickle.text("zero_stage");
  pickle.integer(1);
  groups();
  pickle.text("optimizer_state_dict");
  pickle.begin_dict();
  pickle.text("state");
  pickle.begin_dict();
  pickle.integer(0);
  pickle.begin_dict();
  pickle.text("step");
  out.scalar(static_cast<float>(image.step));
  pickle.end_dict();
  pickle.end_dict();
  groups();
  pickle.end_dict();
  pickle.end_dict();
}

}  // namespace

std::vector<OutputFile> universal_files(const CheckpointImage& image) {
  TH_CHECK(image.has_state());
  check_names(image);
  const std::string tag = deepspeed_tag(image) + "/";
  std::vector<OutputFile> files = config_output(image);
  for (const auto& [name, param] : image.params) {
    const std::string folder = tag + "zero/" + name + "/";
    files.push_back(state_output(folder, "fp32.pt", param.weight));
    files.push_back(state_output(folder, "exp_avg.pt", *param.exp_avg));
    files.push_back(state_output(folder, "exp_avg_sq.pt", *param.exp_avg_sq));
    files.push_back(torch_output(folder + "step.pt", 0, [&image](TorchWriter& out) {
      out.scalar(static_cast<float>(image.step));
      return nullptr;
    }));
  }
  files.push_back(torch_output(tag + "zero/optimizer_state.pt", 0, [&image](TorchWriter& out) {
    put_optimizer(out, image);
    return nullptr;
  }));
  // The first is read by stages 1 and 2, the second by stage 3; weights are in neither.
  for (const char* name :
       {"mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt"}) {
    files.push_back(torch_output(tag + name, 0, [&image](TorchWriter& out) {
      out.pickle.begin_dict();
      put_engine_items(out.pickle, image, {});
      out.pickle.end_dict();
      return nullptr;
    }));
  }
  files.push_back(text_output("latest_universal", deepspeed_tag(image)));
  return files;
}

}  // namespace thimble
