#include <algorithm>
#include <string>

#include "cpu/attention/access.h"
#include "cpu/attention/geometry.h"
#include "deploykit/error.h"

namespace deploykit::cpu {

// One table for each instruction set, in isa/attend.cpp and isa/store.cpp.
#define DEPLOYKIT_ATTENTION(isa)           \
  namespace isa {                          \
  void store_tokens(const StoreTask& task); \
  void attend(const AttendTask& task);      \
  void merge(const AttendTask& task);       \
  }
DEPLOYKIT_ATTENTION(scalar)
#if defined(__x86_64__)
DEPLOYKIT_ATTENTION(avx2)
DEPLOYKIT_ATTENTION(avx512)
#endif
#undef DEPLOYKIT_ATTENTION

namespace {

template <void (*store_tokens)(const StoreTask&)>
void store(const AttentionCall& call, const RowSlice& slice, int32_t t0, int32_t t1, int32_t h0, int32_t h1) {
  const KvLayout& layout = *call.layout;
  const KvLayout::Layer& layer = layout.layers[static_cast<size_t>(call.layer)];
  StoreTask task;
  task.type = layout.type;
  task.geometry = kv_geometry(layout.type, layer.head_dim, layout.block_len);
  task.block_bytes = layout.block_bytes;
  task.blocks = slice.blocks;
  task.block_len = layout.block_len;
  task.head_dim = layer.head_dim;
  task.stride = call.kv_stride;
  task.position = slice.start + t0;
  task.count = t1 - t0;
  for (int32_t head = h0; head < h1; ++head) {
    const int64_t first = (int64_t{slice.first} + t0) * call.kv_stride + int64_t{head} * layer.head_dim;
    task.head = call.pool + layer.offset + head * layer.head_bytes;
    task.k = call.k + first;
    task.v = call.v + first;
    store_tokens(task);
  }
}

template <void (*attend)(const AttendTask&), void (*merge)(const AttendTask&), bool bf16>
void run(const AttentionCall& call, AttentionPlan& plan, int64_t index, uint8_t* scratch) {
  const AttentionPlan::Unit& unit = plan.list()[static_cast<size_t>(index)];
  const RowSlice& slice = PlanAccess::slice(plan, unit.slice);
  const KvLayout& layout = *call.layout;
  const KvLayout::Layer& layer = layout.layers[static_cast<size_t>(call.layer)];
  const AttentionSpec& spec = *call.spec;
  AttendTask task;
  task.type = layout.type;
  task.bf16_dot = bf16;
  task.geometry = kv_geometry(layout.type, layer.head_dim, layout.block_len);
  task.head = call.pool + layer.offset + unit.kv_head * layer.head_bytes;
  task.block_bytes = layout.block_bytes;
  task.blocks = slice.blocks;
  task.block_len = layout.block_len;
  task.head_dim = layer.head_dim;
  task.group = spec.heads / spec.kv_heads;
  if (task.group != PlanAccess::group(plan) || task.head_dim != PlanAccess::head_dim(plan)) {
    throw Error("internal", "attention's plan was built for " + std::to_string(PlanAccess::group(plan)) +
                                " query heads of " + std::to_string(PlanAccess::head_dim(plan)) +
                                " dimensions a KV head, layer " + std::to_string(call.layer) + " has others");
  }
  if (!PlanAccess::covers(plan, spec.window)) {
    throw Error("internal", "attention's plan was built for a narrower window than layer " +
                                std::to_string(call.layer) + "'s");
  }
  task.queries = unit.query1 - unit.query0;
  task.position = slice.start + unit.query0;
  task.window = spec.window;
  task.span0 = unit.span0;
  task.span1 = unit.span1;
  task.scale = spec.scale;
  task.softcap = spec.softcap;
  const int64_t token = int64_t{slice.first} + unit.query0;
  const int64_t column = int64_t{unit.kv_head} * task.group * task.head_dim;
  task.q = call.q + token * call.q_stride + column;
  task.q_stride = call.q_stride;
  task.out = call.out + token * call.out_stride + column;
  task.out_stride = call.out_stride;
  task.sinks = call.sinks ? call.sinks + int64_t{unit.kv_head} * task.group : nullptr;
  place_workspace(task.work, scratch, task.head_dim, task.group);
  if (unit.merge >= 0) {
    const PlanAccess::Merge& split = PlanAccess::merge(plan, unit.merge);
    task.partials = PlanAccess::partials(plan, split);
    task.partial_stride = PlanAccess::partial_stride(plan);
    task.partial_span0 = split.span0;
    task.partial_spans = split.span1 - split.span0;
  }
  attend(task);
  if (unit.merge >= 0 && PlanAccess::finish(plan, unit.merge)) merge(task);
}

}  // namespace

const AttentionKernels& attention_kernels(Isa isa) {
  static const AttentionKernels on_scalar = {store<scalar::store_tokens>, run<scalar::attend, scalar::merge, false>};
#if defined(__x86_64__)
  static const AttentionKernels on_avx2 = {store<avx2::store_tokens>, run<avx2::attend, avx2::merge, false>};
  static const AttentionKernels on_avx512 = {store<avx512::store_tokens>, run<avx512::attend, avx512::merge, false>};
  static const AttentionKernels on_bf16 = {store<avx512::store_tokens>, run<avx512::attend, avx512::merge, true>};
#endif
  switch (isa) {
    case Isa::scalar: return on_scalar;
#if defined(__x86_64__)
    case Isa::avx2:
    case Isa::avxvnni: return on_avx2;
    case Isa::avx512: return has_avx512_bf16() ? on_bf16 : on_avx512;
#endif
    default: break;
  }
  throw Error("unsupported",
              std::string("attention has no ") + isa_name(isa) + " path in this build; set isa to scalar");
}

int64_t attention_scratch_bytes(const ModelDescription& model, int32_t /*max_step_tokens*/) {
  int64_t bytes = 0;
  for (const LayerSpec& layer : model.layers) {
    const AttentionSpec& spec = layer.attention;
    Workspace work;
    bytes = std::max(bytes, place_workspace(work, nullptr, spec.head_dim, spec.heads / spec.kv_heads));
  }
  return bytes;
}

}  // namespace deploykit::cpu
