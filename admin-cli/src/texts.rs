//! Every text of tables and main messages, in English and Chinese.
//!
//! A text without one of its languages does not compile; help texts of the command line are
//! English alone.

use std::fmt::Display;

/// Language of headings and messages.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Lang {
    /// English.
    En,
    /// Chinese (中文).
    Zh,
}

impl Lang {
    /// The language that a locale such as `zh_CN.UTF-8` asks for.
    pub(crate) fn of_locale(locale: &str) -> Self {
        if locale.to_ascii_lowercase().starts_with("zh") { Self::Zh } else { Self::En }
    }

    /// The language of the environment, by POSIX' order of its variables.
    pub(crate) fn of_environment() -> Self {
        let locale = ["LC_ALL", "LC_MESSAGES", "LANG"]
            .into_iter()
            .filter_map(|name| std::env::var(name).ok())
            .find(|value| !value.is_empty());
        Self::of_locale(&locale.unwrap_or_default())
    }
}

macro_rules! texts {
    ($($name:ident: $english:literal, $chinese:literal;)*) => {
        /// One text. `{}` and `{2}` stand for values.
        #[allow(missing_docs, reason = "the English text says it")]
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub(crate) enum Text { $($name,)* }

        impl Text {
            /// The text in a language.
            pub(crate) fn get(self, lang: Lang) -> &'static str {
                match (self, lang) {
                    $((Self::$name, Lang::En) => $english,
                      (Self::$name, Lang::Zh) => $chinese,)*
                }
            }

            #[cfg(test)]
            const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

impl Text {
    /// The text with its places filled: `{}` takes the next value, `{2}` the third.
    pub(crate) fn fill(self, lang: Lang, values: &[&dyn Display]) -> String {
        let mut parts = self.get(lang).split('{');
        let mut text = parts.next().unwrap_or_default().to_owned();
        let mut next = 0;
        for part in parts {
            let (place, rest) = part.split_once('}').unwrap_or(("", part));
            let index = place.parse().unwrap_or(next);
            if place.is_empty() {
                next += 1;
            }
            if let Some(value) = values.get(index) {
                text.push_str(&value.to_string());
            }
            text.push_str(rest);
        }
        text
    }
}

texts! {
    // Levels and units.
    City: "city", "市";
    District: "district", "区";
    Street: "street", "街道";
    Community: "community", "社区";
    Unknown: "unknown", "未知";
    Unit: "unit", "单位";
    Title: "title", "名称";
    Level: "level", "层级";
    Parent: "parent", "上级";
    Desk: "desk", "承办单位";
    Line: "line", "条线";
    Host: "host", "主机";
    Field: "field", "字段";
    Is: ": ", "：";

    // Journal.
    LeafIndex: "leaf", "条目";
    Leaf: "content", "内容";
    Actor: "by", "操作者";
    Event: "event", "事件";
    ActName: "what", "动作";
    Subject: "on", "对象";
    Witness: "witness", "见证单位";
    NoLeaves: "nothing in the journal matches", "存证日志中没有符合条件的条目";
    NoAlarms: "no alarms", "没有告警";
    Witnessed: "seen by {} at {}", "{} 于 {} 见证";
    WitnessedHere: "seen by {} at {}, on the same host: that proves less", "{} 于 {} 见证（同一主机，证明力较弱）";
    Unwitnessed: "no neighbour has cosigned it: it proves what this unit says, not that anybody saw it",
        "尚无其他单位会签：只能证明本单位的陈述，不能证明他人见过";
    RootWitness: "this unit has no parent: beside units below it only a witness outside the tree can see it, see `lianxi journal witness`",
        "本单位没有上级：除下级外，只有体系之外的见证方能够见证，见 `lianxi journal witness`";
    Settled: "settled", "处置";
    WouldSettleAlarm: "alarm {} would be settled by {}; nothing was changed", "告警 {} 将由 {} 处置；未作改动";
    AlarmSettled: "alarm {} is settled by {}; it stays listed", "告警 {} 已由 {} 处置；仍保留在列表中";
    NoPeers: "no witness outside the tree is named; see `lianxi journal witness add`", "尚未指定体系外的见证方；见 `lianxi journal witness add`";
    CosignedByPeer: "it cosigned up to", "对方已会签至";
    CosignedForPeer: "cosigned for it up to", "已为对方会签至";
    WouldAddPeer: "{} would be a witness of {}, and it of that; nothing was changed", "{} 将与 {} 互为见证；未作改动";
    PeerAdded: "{} and {} can witness each other from now on", "{} 与 {} 从现在起可以互为见证";
    WouldRemovePeer: "{} would be no witness of {} any more; nothing was changed", "{} 将不再见证 {}；未作改动";
    PeerRemoved: "{} is no witness of {} any more", "{} 不再见证 {}";
    WouldRequest: "{} would be asked for a cosignature from size {} to {} in {}; nothing was written",
        "将请 {} 会签 {} 至 {} 的日志，写入 {}；未写文件";
    CosignatureRequested: "give {} the request for size {} to {}: {}", "请将 {} 的会签请求（{} 至 {}）交给对方：{}";
    WouldCosign: "{} goes on up to size {} and would be cosigned; nothing was changed", "{} 的日志连贯至 {}，可以会签；未作改动";
    Cosigned: "cosigned {} up to size {}", "已会签 {}，至 {}";
    WouldTakeCosignature: "the cosignature of {} over size {} holds; nothing was changed", "{} 对 {} 的会签有效；未作改动";
    CosignatureTaken: "took in the cosignature of {} over size {}", "已收入 {} 对 {} 的会签";
    JournalChecked: "{}: {} leaves, {} checkpoints, {} of them witnessed", "{}：{} 条，{} 个检查点，其中 {} 个已见证";
    WouldPrune: "{} leaves are older than {} days and would be dropped; nothing was changed",
        "{} 条早于 {} 天，将被清除；未作改动";
    Pruned: "{} leaves older than {} days were dropped; their hashes stay", "已清除 {} 条早于 {} 天的条目；其哈希保留";
    RemedyBrokenJournal: "somebody changed the store behind the node: keep a copy of it, compare with what the neighbours hold (`lianxi journal alarms` there), and restore a backup",
        "有人绕过节点改动了存储：先保留一份副本，与上下级所存的检查点核对（在对方执行 `lianxi journal alarms`），再从备份恢复";

    // Node.
    Version: "version", "版本";
    Started: "started", "启动时间";
    LinkAddress: "address for children", "下级接入地址";
    StoreSize: "store", "存储";
    FreeDisk: "free disk", "可用磁盘";
    Link: "link", "链路";
    LinkNone: "no parent", "无上级";
    LinkUp: "up", "畅通";
    LinkDown: "down", "中断";
    Children: "children", "下级";
    NoChildren: "no children yet", "尚无下级";
    Software: "program", "程序版本";
    ProtocolVersions: "protocol", "协议版本";
    CatalogueFormat: "catalogue format", "目录格式";
    LastHello: "last hello", "最近握手";
    Outlook: "outlook", "影响";
    OutlookFine: "fine", "无影响";
    OutlookBreaks: "breaks", "将中断";
    LastReport: "last report", "最近报送";
    SeriesEnd: "series that end", "将终止的指标";
    SeriesBeginAnew: "series that begin anew", "将断档的指标";
    AwaitsCatalogue: "awaits the one in force", "待收现行目录";
    Yes: "yes", "是";
    No: "no", "否";
    Waiting: "waiting", "待发";
    OldestWaiting: "oldest", "最久待发";
    QuarantinedCount: "quarantined", "异常报文";
    Catalogue: "catalogue", "目录";
    Records: "records", "业务数据";
    CertificateEnds: "certificate ends", "证书到期";
    Skew: "clock skew", "时钟偏差";
    Bytes: "bytes", "字节";
    Quota: "quota", "配额";
    Revoked: "{} is revoked by {}: {} keys end", "{} 已被 {} 吊销：{} 个密钥失效";
    WouldRevoke: "{} would be revoked by {}: {} keys would end; nothing was changed",
        "{} 将被 {} 吊销：{} 个密钥将失效；未做任何改动";
    RevokedBelow: "out of reach until it is back, or they have another parent: {}",
        "在其恢复或改隶之前无法联系：{}";
    RolledBackHere: "{}: {}", "{}（已回退）：{}";
    RolledBackPeers: "{}: rolled back and standing still: {}", "{}：数据回退、已停止收发：{}";
    EpochOpened: "{} is in epoch {} from here on", "{} 已启用第 {} 纪元";
    EpochWouldOpen: "{} would open epoch {}; nothing was changed", "{} 将启用第 {} 纪元；未作任何更改";
    Epoch: "epoch", "纪元";
    ApprovedBy: "approved by", "批准人";
    LostStatements: "lost statements", "缺失报文";
    LostLeaves: "lost entries", "缺失记录";
    Returned: "returned", "已退还";
    NoEpochs: "no epoch was opened", "未启用过新纪元";
    EnterAgain: "{}: up to {} entries of the journal are lost; enter again what was entered between {} and {}", "{}：存证日志最多缺 {} 条；请补录 {} 至 {} 期间录入的数据";
    WithdrawnStatement: "{}: not sent, make it again: {}", "{}：未发送，请重新办理：{}";
    DoctorRestore: "run `lianxi node restore` where the store was brought back", "在恢复了数据的主机上运行 `lianxi node restore`";
    RevokedHere: "{}: {}", "{}（已吊销）：{}";
    RevokedChildren: "{}: revoked children: {}", "{}：已吊销的下级：{}";
    RootWithoutWitness: "{}: only units below it witness its journal; whoever runs them all could change it",
        "{}：其存证日志仅由下级单位见证；若下级均由同一方运行，则可能被篡改";
    CheckLane: "lanes", "通道";
    CheckWitness: "witness of the journal", "存证见证";
    WitnessBelow: "units below it alone", "仅下级单位";
    WitnessHere: "its parent, which is on this host", "上级单位（在同一主机）";
    WitnessParent: "its parent", "上级单位";
    WitnessPeer: "a witness outside the tree", "体系之外的见证方";
    WitnessSilent: "a witness outside the tree that has not cosigned for 30 days", "体系之外的见证方已 30 天未会签";
    DoctorWitness: "let the witness cosign: lianxi journal witness request, and take in its answer",
        "请见证方会签：lianxi journal witness request，并收入其答复";
    CheckAlarms: "alarms about journals", "存证告警";
    DoctorAlarms: "find out who restored or changed a store: lianxi journal alarms, then --settle with what was found",
        "查明是谁恢复或改动了存储：lianxi journal alarms，再用 --settle 记录查明的情况";
    OpenAlarms: "{}: {} alarms about journals are not settled; see `lianxi journal alarms`",
        "{}：有 {} 条存证告警尚未处置；见 `lianxi journal alarms`";
    NoUnits: "no units yet", "尚无单位";

    // Custody of the root key.
    RootDomain: "trust domain", "信任域";
    RootDelegationEnds: "delegation ends", "授权到期";
    RootKeyLies: "the private key", "私钥";
    RootOnDisk: "lies on this host; split it and remove it", "在本主机上；请拆分并移除";
    RootElsewhere: "is not on this host", "不在本主机上";
    RootSplit: "{} shares written, any {} give the key back; the key itself is still on this host",
        "已写出 {} 份，任意 {} 份可恢复；密钥本身仍在本主机上";
    SharesFit: "{} shares of {} give back the root key {}", "{} 份（{}）可恢复根密钥 {}";
    RootRestored: "the root key is in {}: {}", "根密钥在 {}：{}";
    RootRequested: "the request is in {}; sign it with: lianxi root sign", "请求在 {}；签名：lianxi root sign";
    RootSigned: "signed, in {}; take it in with: lianxi root install", "已签名，在 {}；导入：lianxi root install";
    RootWouldSign: "this would be signed; nothing was written to {}", "将签署以上内容；未写入 {}";
    RootInstalled: "taken in from {}; it takes effect when the host starts", "已从 {} 导入；主机启动后生效";
    RootWouldInstall: "{} holds and can be taken in; nothing was changed", "{} 有效，可以导入；未作更改";
    RootRemoved: "the shares gave the key back; {} was overwritten and removed", "分份可恢复密钥；{} 已覆写并移除";
    RootWouldBeRemoved: "the shares give the key back; {} would be removed, nothing was changed",
        "分份可恢复密钥；将移除 {}，未作更改";

    // Keys at rest.
    Passphrase: "passphrase of the keys: ", "密钥口令：";
    NewPassphrase: "new passphrase, at least 12 characters: ", "新口令（至少 12 个字符）：";
    PassphraseAgain: "the same again: ", "再次输入：";
    KeysSealed: "{} key files sealed; the host asks for what opens them when it starts",
        "已加密 {} 个密钥文件；主机启动时需要解锁";
    KeysWouldBeSealed: "{} key files would be sealed; nothing was changed",
        "将加密 {} 个密钥文件；未作更改";
    KeysOpened: "{} key files are in clear again, protected by their mode alone",
        "{} 个密钥文件已恢复为明文，仅靠文件权限保护";
    KeysWouldBeOpened: "{} key files would be written in clear; nothing was changed",
        "将把 {} 个密钥文件恢复为明文；未作更改";
    PassphraseChanged: "the passphrase was changed", "口令已更改";
    StoreBefore: "encrypted so far with", "原加密方式";
    StoreAfter: "encrypted with", "加密方式";
    StoreEntries: "entries", "条目数";
    StoreCopied: "{} entries copied", "已复制 {} 个条目";
    StoreCompared: "comparing the copy with the store", "正在核对副本";
    StoreErasing: "erasing the store before", "正在清除原存储";
    StoreEncrypted: "the store is encrypted; the host asks for what opens it when it starts. Backups made before are still as they were",
        "存储已加密；主机启动时需要解锁。此前的备份不受影响，请另行处理";
    StoreDecrypted: "the store is in clear again, protected by its mode alone",
        "存储已恢复为明文，仅由文件权限保护";
    StoreWouldBeRewritten: "the store would be rewritten; nothing was changed", "将重写存储；未作更改";
    PassphraseFits: "the passphrase opens the keys; nothing was changed", "口令正确；未作更改";
    LaneRests: "{}: no room for what comes from {}", "{}：没有空间接收 {}";
    LinkDownBecause: "{}: link down: {}", "{}：链路中断：{}";
    InitDone: "{} is ready in {}; start it with: lianxi node run --dir {}",
        "{} 已在 {} 就绪；启动：lianxi node run --dir {}";
    Adopted: "{} and all below it came under {}; lianxi node status shows the link", "{} 及其全部下级已归入 {}；用 lianxi node status 查看链路";
    AdoptionWouldWork: "{} can come under {}; nothing was changed", "{} 可以归入 {}；未作更改";
    OfferHint: "compare the fingerprints of both root keys; valid until {2}; on the host of {}: lianxi node adopt --token TOKEN",
        "请双方核对根密钥指纹；有效期至 {2}；在 {} 的主机上执行：lianxi node adopt --token TOKEN";
    OfferWouldWork: "{} can come under this unit; no offer was made", "{} 可以归入本单位；未生成要约";
    NextRootKey: "followed by root key {} of {}, which the one before named as the next", "后续根密钥 {}（{}），由前一根密钥指定";
    FormerRootKey: "preceded by root key {} of {}, which a grant names as the former", "先前根密钥 {}（{}），由后来的授权确认";
    RootMade: "root key {} made in {} shares, any {} of which give it back; give them to their keepers, and take root.pub to the host", "已生成根密钥 {}，分为 {} 份，任意 {} 份可还原；请分交保管人，并将 root.pub 带到主机";
    InviteHint: "valid until {}; on the child's machine: lianxi node join TOKEN",
        "有效期至 {}；在下级主机上执行：lianxi node join TOKEN";
    InviteWouldWork: "{} can be invited; no token was made", "{} 可以邀请；未生成令牌";
    InvitesMade: "{} tokens made; {} units more are invited by the host of their parent; {} have joined; on the host of the units: lianxi node join --file JOIN",
        "已生成 {} 个令牌；另有 {} 个单位由其上级所在主机邀请；{} 个已加入；在这些单位的主机上执行：lianxi node join --file JOIN";
    InvitesWouldWork: "{} units can be invited, {} by the host of their parent, {} have joined; no token was made",
        "{} 个单位可以邀请，{} 个由其上级所在主机邀请，{} 个已加入；未生成令牌";
    Joined: "{} joined under {} in {}", "{} 已加入 {}，用时 {}";
    JoinedOffline: "{} joined under {} in {3}; start it with: lianxi node run --dir {2}",
        "{} 已加入 {}，用时 {3}；启动：lianxi node run --dir {2}";
    JoinProgress: "{} of {} units", "{}／{} 个单位";
    JoinDone: "joined", "已加入";
    JoinedBefore: "joined before", "此前已加入";
    WouldJoin: "would join", "可加入";
    JoinFailed: "not joined", "未加入";
    JoinedOfFile: "{} of {} units joined, {} not, in {}", "{}／{} 个单位已加入，{} 个未加入，用时 {}";
    JoinWouldWork: "the token is good: {} would join under {}; nothing was kept",
        "令牌有效：{} 可加入 {}；未作任何更改";
    CertificateEnded: "certificate so far", "原证书到期";
    DelegationEnds: "delegation ends", "授权到期";
    Recovered: "recovered child", "恢复的下级";
    LastTime: "last time", "最近一次";
    InThirtyDays: "in 30 days", "30 天内";
    RefusedCount: "refused", "被拒";
    ApprovedUntil: "let in until", "准许至";
    NoRecoveries: "no child let its certificate end", "没有下级的证书失效";
    RotationBegun: "{}: new key for {} made; `lianxi node status` shows how far it is", "{}：已生成新的 {} 密钥；用 lianxi node status 查看进度";
    RotationWouldWork: "{}: the key for {} could be replaced; nothing was changed", "{}：可更换 {} 密钥；未作任何更改";
    RotationPrepared: "{}: new key for {}: prepared, the parent is asked for its grant", "{}：新的 {} 密钥：已生成，正请上级授权";
    RotationGranted: "{}: new key for {}: granted, acknowledged by {} of {} children; missing: {}", "{}：新的 {} 密钥：已授权，{}／{} 个下级已确认；未确认：{}";
    RotationInUse: "{}: new key for {}: in use; the former one holds until {} at least, {} statements by it wait", "{}：新的 {} 密钥：已启用；旧密钥至少保留至 {}，尚有 {} 份报文待送";
    CheckRotation: "change of keys", "更换密钥";
    RecoveryApproved: "{} is let in once until {}", "{} 在 {} 前可恢复一次";
    RecoveryWouldWork: "{} could be let in until {}; nothing was approved", "{} 可准许恢复至 {}；未作任何更改";
    LeaveWaits: "{} statements wait for {}", "尚有 {} 份报文待送 {}";
    HasLeft: "{} has left {}; {2} statements waited, {3} items were open", "{} 已脱离 {}；待发 {2} 份，未结 {3} 项";
    WouldLeave: "{} is still under {}; {2} statements wait, {3} items are open", "{} 仍属 {}；待发 {2} 份，未结 {3} 项";
    OldParent: "old parent", "原上级";
    NewParent: "new parent", "新上级";
    FromDay: "from", "生效日";
    NotAnswered: "not answered", "未答复";
    ReformOrdered: "ordered", "已下达";
    ReformDated: "dated", "待生效";
    ReformMoved: "moved", "已划转";
    ReformDone: "done", "已完成";
    ReformRefused: "not taking part", "未受理";
    NoReforms: "no reforms", "没有机构调整";
    NobodyAnswered: "nobody has answered yet", "尚无单位答复";
    Accounts: "accounts", "账号";
    Notices: "open notices", "未结任务";
    Escalations: "open escalations", "未结吹哨";
    Clocks: "clocks", "计时";
    Successor: "with whom from then on", "此后承接单位";
    PartRefused: "{} does not take part: {}", "{} 未受理：{}";
    PartSilent: "{} has not answered: it is away, or its link is down", "{} 未答复：不在线或链路中断";
    WouldReparent: "{} would come from {} under {} on {}; nothing was ordered", "{} 将于 {3} 由 {1} 划归 {2}；未作任何更改";
    Reparented: "{} comes from {} under {} on {}", "{} 定于 {3} 由 {1} 划归 {2}";
    WouldMerge: "{} would merge into {} on {}; nothing was ordered", "{} 将于 {2} 并入 {1}；未作任何更改";
    Merged: "{} merges into {} on {}", "{} 定于 {2} 并入 {1}";
    WouldSplit: "{} would be divided with {} on {}: {} children and {} open items would go; nothing was ordered", "{} 将于 {2} 分设 {1}：划出下级单位 {3} 个、在办事项 {4} 件；未作任何更改";
    SplitOrdered: "{} is divided with {} on {}: {} children and {} open items go", "{} 定于 {2} 分设 {1}：划出下级单位 {3} 个、在办事项 {4} 件";
    ChildrenCome: "{} children come under {}: {}", "下级单位 {} 个划归 {1}：{2}";
    DeskWouldClose: "desk {} would hand over to {} on {}: {} open cases; nothing was changed", "承办单位 {} 将于 {2} 移交 {1}：在办 {3} 件；未作任何更改";
    DeskClosed: "desk {} was closed; {} took over on {}: {} open cases", "承办单位 {} 已撤销，由 {1} 于 {2} 接办：在办 {3} 件";
    DeskClosesOn: "desk {} hands over to {} on {}: {} open cases now", "承办单位 {} 定于 {2} 移交 {1}：现有在办 {3} 件";
    MoveAwaited: "give this to the old host; the file is sealed to this host alone", "请将此交给原主机；文件仅本机可开启";
    MoveAnnounced: "children of {} are told to dial {} too", "已告知 {} 的下级新地址 {}";
    WouldMove: "{} would go from {} to {}; nothing was changed", "{} 将由 {} 迁往 {}；未作任何更改";
    MoveExported: "{} stopped here for good and goes to {}; its file is {}", "{} 已在本机永久停止，迁往 {}；文件为 {}";
    MoveImported: "{} came from {} and opened epoch {}", "{} 已由 {} 迁入，开启第 {} 纪元";
    MoveConfirmed: "{} is at {}; its keys and records here were erased", "{} 已迁至 {}；本机的密钥与数据已清除";
    WouldConfirm: "{} is at {}; nothing was erased", "{} 已迁至 {}；未作清除";
    ChildUnknowing: "{} does not know the new address yet", "{} 尚不知新地址";
    AccountStays: "account {} has a role of the unit and stays at this host; the new host makes its own", "账号 {} 在该单位有角色，留在本机；新主机须另建账号";
    NothingMoves: "nothing moves", "无迁移内容";
    ScopeCame: "scope changed from {} on: {} came from {} ({} units); earlier periods are not comparable", "自 {} 起口径变化：{} 由 {} 划入（{} 个单位）；与此前各期不可比";
    ScopeWent: "scope changed from {} on: {} went to {} ({} units); earlier periods are not comparable", "自 {} 起口径变化：{} 划归 {}（{} 个单位）；与此前各期不可比";
    ComparableScope: "comparable scope, without what came:", "可比口径（不含划入单位）：";
    Severity: "severity", "程度";
    SeverityGood: "good", "正常";
    SeverityWarning: "warning", "警告";
    SeverityAlarm: "alarm", "严重";
    Check: "check", "检查项";
    Place: "where", "位置";
    Found: "found", "结果";
    CheckNode: "node", "节点";
    CheckKeys: "key files", "密钥文件";
    DoctorStart: "start it with lianxi node run, or the service; see its log if it does not stay up",
        "用 lianxi node run 或系统服务启动；若随即退出，请查看日志";
    DoctorDisk: "free disk space, or move the directory to a larger disk", "请清理磁盘，或将目录移到更大的磁盘";
    DoctorRenew: "run lianxi node renew; if the parent refuses, it has to approve with lianxi node recover",
        "执行 lianxi node renew；若上级拒绝，须由上级用 lianxi node recover 准许";
    DoctorDelegation: "run lianxi node renew; if it ends no later then, the parent's own delegation has to be renewed first",
        "执行 lianxi node renew；若到期时间不变，须先更新上级自身的授权";
    DoctorUnsent: "see the link; nothing is lost, but time limits run", "请查看链路；数据不会丢失，但时限照常计算";
    DoctorCatalogue: "publish one at the root, or wait for the parent's", "请由根单位发布，或等待上级下发";
    DoctorRecover: "find out why the child lets its certificate end; let it in with lianxi node recover --approve",
        "请查明下级证书失效的原因；用 lianxi node recover --approve 准许恢复";
    DoctorRotation: "bring the hosts of the units that are named back, or let them go with lianxi node leave --child",
        "请恢复所列单位的主机，或用 lianxi node leave --child 使其退出";
    DoctorLane: "the peer is away: bring the link up, or raise the budget under [lanes] in node.toml",
        "对端不可达：请恢复链路，或在 node.toml 的 [lanes] 中调高上限";
    DoctorRoom: "make room on the disk: the lane is tried again every half minute",
        "请清理磁盘空间：该通道每半分钟重试一次";
    DoctorLink: "check address, port and firewall of the parent; it is dialled again by itself",
        "请检查上级地址、端口与防火墙；节点会自动重连";
    DoctorClock: "set up NTP on this machine, or on the parent's", "请在本机或上级主机上配置 NTP";
    DoctorKeys: "give it to the user that runs the node, and to nobody else: chown, and chmod go=",
        "请改为仅运行节点的用户可读：chown 与 chmod go=";
    SkewWarning: "this machine's clock is {} off the parent's; set it right",
        "本机时钟与上级相差 {}，请校准";
    DeskAdded: "desk {} of {} added", "已在 {1} 设立承办单位 {}";

    // Catalogue and records.
    Source: "source", "发布单位";
    Indicator: "indicator", "指标";
    Measure: "measure", "计量";
    NoIndicators: "the catalogue has no indicators", "目录中没有指标";
    CataloguePublished: "{}@{} signed, on its way to {} children", "{}@{} 已签发，正送往 {} 个下级";
    CatalogueGood: "{}@{} is good; nothing was published", "{}@{} 校验通过；未发布";
    CatalogueBefore: "before", "原目录";
    CatalogueAfter: "after", "新目录";
    RecordTypes: "record types", "数据类型";
    Indicators: "indicators", "指标";
    Change: "change", "变动";
    ChangeAdded: "added", "新增";
    ChangeRemoved: "removed", "删除";
    ChangeChanged: "changed", "修改";
    Effect: "effect", "影响";
    EffectSameVersion: "REFUSED: counts something else under the same version; raise it",
        "不予发布：口径已变而版本未变，请提高指标版本";
    EffectEarlierVersion: "REFUSED: goes back to an earlier version; raise it", "不予发布：指标版本倒退，请提高版本";
    EffectOtherKey: "REFUSED: records would come in twice; declare another record type",
        "不予发布：主键变更会使数据重复，请另设数据类型";
    EffectSeriesEnds: "the series ends", "序列终止";
    EffectSeriesAnew: "the series begins anew; unlike versions never add", "序列断档重起，不同版本不汇总";
    EffectRecordsUncounted: "records are neither taken nor counted; those that are there stay", "不再接收和统计；已有数据保留";
    EffectOtherPeriods: "records count in other periods; all figures are computed again", "数据归属的期间变化，全部指标重算";
    EffectRecordsMayFail: "records that are there may not hold any more", "已有数据可能不再合规";
    EffectTasksRefused: "tasks that cite it are refused from now on", "此后引用此项的任务将被拒收";
    EffectOtherTimes: "whistles that are raised from now on have other times", "此后的吹哨适用新时限";
    EffectOtherDisclosure: "small numbers are shown otherwise", "小数值的显示规则变化";
    EffectSeriesBegins: "a series begins, filled from the records that are there", "新增序列，由已有数据补算";
    EffectWider: "more is taken", "范围扩大";
    EffectWording: "other words are shown", "仅文字变化";
    NoChanges: "nothing changes", "没有变动";
    Doubt: "doubt", "疑点";
    DoubtUnclassified: "the field has no x-class: it is treated like the most sensitive", "字段未标注 x-class，按最敏感处理";
    DoubtUncounted: "no indicator counts this record type", "没有指标统计此数据类型";
    DoubtGroupedPeople: "people are counted by group: small groups will not be shown", "对人员分组统计：小分组将不予显示";
    DoubtSameTitle: "two indicators have this title", "两个指标同名";
    DoubtNearlyFull: "little room is left below 47 KiB", "接近 47 KiB 上限";
    NoDoubts: "nothing to remark", "没有疑点";
    RemedyMayNotFollow: "raise the version of each such indicator, or declare a record type of another name",
        "请提高相应指标的版本，或另设数据类型";
    RemedyDoubts: "it can be published as it is; look at each place", "可以照此发布；请逐处核对";
    ImportProgress: "{} rows, {} of {} sent", "已处理 {} 行，已发送 {}／{}";
    Rows: "rows", "行数";
    Imported: "imported", "新增";
    Updated: "updated", "更新";
    Unchanged: "unchanged", "未变";
    Elsewhere: "elsewhere", "属他机";
    Rejected: "rejected", "拒收";
    Months: "months", "月份";
    FileLine: "line", "行";
    Column: "column", "列";
    RecordPath: "record", "数据路径";
    SchemaPath: "schema", "模式路径";
    Reason: "reason", "原因";
    MoreRowErrors: "and {} more bad rows; --json lists them all", "另有 {} 行错误；用 --json 可列出全部";
    KeptNothing: "nothing was kept", "未保存任何数据";
    Key: "key", "键";
    Document: "document", "内容";
    NoRecords: "no records", "没有业务数据";
    MorePages: "more: --after {}", "后续：--after {}";

    // Summaries.
    Period: "period", "期间";
    Coverage: "coverage", "报送情况";
    AsOf: "as of", "数据时间";
    Own: "own", "本级";
    Subtree: "subtree", "含下级";
    Group: "group", "分组";
    Included: "included", "已报";
    Stale: "stale", "沿用上期";
    Absent: "absent", "未报";
    Quarantined: "quarantined", "异常";
    Zero: "zero by statement", "零报告";
    ByParent: "entered by the parent", "代报";
    Missing: "missing: {} ({} units): {}", "缺：{}（{} 个单位）：{}";
    MissingSince: "last known {}", "最近数据 {}";
    IncompleteRate: "* rate over incomplete coverage: only the units that reported",
        "* 报送不全，比率仅含已报单位";
    OutsideCoverage: "{} of {} units are in these figures", "以上数字含 {}／{} 个单位";
    NoFigures: "no figures", "没有数据";
    Published: "published", "已签发";
    NothingNew: "nothing changed since the last version", "自上一版以来没有变化";

    // Notices.
    Number: "number", "编号";
    Id: "id", "标识";
    Issuer: "issuer", "签发单位";
    Destination: "destination", "送达范围";
    Due: "due", "办结期限";
    Recipients: "recipients", "承办数";
    Stage: "stage", "回执";
    StageNone: "no receipt", "无回执";
    StageDurable: "durable", "已送达";
    StageValidated: "validated", "已校验";
    StageSeen: "seen", "已签收";
    StageDone: "done", "已办结";
    StageRefused: "refused", "不予准入";
    Time: "time", "时间";
    Note: "note", "说明";
    NoticeIssued: "{} issued to {} units: {}", "{} 已下达 {} 个单位：{}";
    NoNotices: "no notices", "没有任务交办";
    NoRecipients: "no recipients", "没有承办单位";
    Exercise: "exercise", "演练";

    // Whistles.
    WhistleFrom: "raised by", "哨源";
    WhistleTo: "called", "被呼叫单位";
    Kind: "kind", "类别";
    KindRoutine: "routine", "日常";
    KindHard: "hard", "攻坚";
    KindEmergency: "emergency", "应急";
    State: "state", "状态";
    StepRaised: "raised", "已吹哨";
    StepRouted: "routed", "已分哨";
    StepAnswered: "answered", "已应哨";
    StepArrived: "arrived", "已报到";
    StepHandled: "handled", "已处置";
    StepClosed: "closed", "已销号";
    StepWithdrawn: "withdrawn", "已撤哨";
    StepReturned: "returned", "已退回";
    Lamp: "lamp", "亮灯";
    LampGreen: "green", "正常";
    LampYellow: "yellow", "临期";
    LampRed: "red", "超期";
    LampGrey: "grey", "暂停";
    LampDone: "done", "办结";
    NoWhistles: "no whistles", "没有吹哨";
    WhistleRaised: "{} raised: {}", "{} 已吹哨：{}";

    // Sealed bodies.
    SealedForOthers:
        "Sealed for others: this unit passes it on and cannot read it.",
        "内容已加密：本单位只转发，无权阅读。";
    KeyGiven: "{}: {} gave the key to {}", "{}：{} 将密钥授予 {}";
    SharedDryRun: "Nothing holds {} back from {}; nothing was changed.", "{} 可授予 {}；未作任何更改。";

    // Quarantine.
    Peer: "peer", "对端";
    RefusedBy: "refused by", "拒收方";
    RefusedHere: "this unit", "本单位";
    RefusedThere: "the peer", "对端";
    ClaimedSource: "claimed source", "自称来源";
    ClaimedType: "claimed type", "自称类型";
    Detail: "detail", "详情";
    // Courier.
    CourierWriting: "{}: {} statements, {}", "{}：{} 份报文，{}";
    CourierExported: "for {}: {} statements in {} files, {}", "发往 {}：{} 份报文，{} 个摆渡包，{}";
    CourierWouldExport: "for {}: {} statements would go into {} files, {}; nothing was written",
        "发往 {}：将有 {} 份报文写入 {} 个摆渡包，{}；未写入任何文件";
    CourierTaking: "{} of {} statements", "{}／{} 份报文";
    CourierImported: "{}: from {}, number {}: {} statements taken in, {} were there, {} wait",
        "{}：来自 {}，编号 {}：收入 {} 份报文，{} 份先前已有，{} 份待补";
    CourierWouldImport: "{}: from {}, number {}: holds, with {} statements; nothing was taken in",
        "{}：来自 {}，编号 {}：核验通过，含 {} 份报文；未收入";
    CourierLate: "a later file was imported before it: what it says of its sender is passed over",
        "更晚的摆渡包先前已导入：其中关于发送方状态的内容不再采用";
    CourierStopped: "no statements: one side was rolled back and has to open an epoch first, see `lianxi node status`",
        "不含报文：一方的数据曾被回退，须先开启新纪元，见 `lianxi node status`";
    CourierReturns: "no statements yet: this unit asks for its own ones back first",
        "暂不含报文：本单位先索回自己的报文";
    CourierGap: "lane {}: taken in up to {}, the next follows {}", "通道 {}：已收至 {}，下一份接在 {} 之后";
    RemedyCourierGap: "nothing is lost: look for a file that was not imported yet, or write one for the sender (`lianxi courier export`); it asks for what is missing",
        "没有丢失：先查找尚未导入的摆渡包；或为对方导出一个（`lianxi courier export`），其中会索取所缺部分";
    RemedyWouldBreak: "bring the programs of those children up to date first (a program that says nothing of itself, too), or tell their people that the series begin anew",
        "请先升级这些下级的程序（未报程序版本的也须升级），或告知其人员相关指标序列将断档";
    LastExport: "last export", "最近导出";
    LastImport: "last import", "最近导入";
    Gaps: "missing", "缺失";
    NoNeighbours: "no neighbours", "没有上下级";
    Outcome: "outcome", "结果";
    TakenIn: "taken in", "已收入";
    StillRefused: "still refused", "仍被拒收";
    AskedSender: "sender asked for a corrected one", "已请发送方更正";
    SentAgain: "sent again", "已重新发送";
    Discarded: "thrown away", "已丢弃";
    NothingDone: "nothing done", "未处理";
    NothingChanged: "a dry run: nothing was changed", "试运行：未作改动";
    AskedFor: "to be corrected", "要求更正";
    Tries: "tries", "尝试次数";
    KeptBytes: "bytes kept", "保留字节数";
    PayloadDigest: "payload", "报文摘要";
    DoctorQuarantine: "settle what waits before there is no room: lianxi quarantine list, then replay, fix or discard",
        "在空间用尽之前处理异常报文：先 lianxi quarantine list，再 replay、fix 或 discard";
    NoQuarantine: "no refused statements", "没有异常报文";

    // Failures.
    Error: "error", "错误";
    Remedy: "what to do", "处理办法";
    RemedyNoNode: "start it with `lianxi node run --dir {}`, or name the right directory with --dir",
        "用 `lianxi node run --dir {}` 启动，或用 --dir 指明目录";
    RemedyNotAllowed: "run this as the user that runs the node, or as root", "请以运行该节点的用户或 root 执行";
    RemedyPathTooLong: "choose a shorter directory with --dir", "请用 --dir 选择较短的目录";
    RemedyRejectedRows: "mend the rows named above and import the file again; rows that are in change nothing",
        "请修正上列各行后重新导入；已导入的行不会重复";
    RemedyNotJoined: "the reasons stand above; give the same command again: what has joined stays",
        "原因见上；再次执行同一命令即可，已加入的单位不受影响";
    RemedyNotRenewed: "the reasons stand above; the node tries again by itself", "原因见上；节点会自动重试";
    RemedyNotLeft: "wait until the link is up, and give the same command again", "待链路畅通后再次执行同一命令";
    RemedyDoctor: "take the remedies above", "请按上列办法处理";
    RemedyTokenFile: "give the file to yourself alone: chmod 600 FILE; or log in again: lianxi login",
        "请确保文件仅本人可读写：chmod 600 FILE；或重新登录：lianxi login";
    RemedyUnavailable: "see the link's state with `lianxi node status`, and try again",
        "用 `lianxi node status` 查看链路状态后重试";
    RemedyExhausted: "free disk space or raise the quota; what was acknowledged is kept",
        "请清理磁盘或提高配额；已确认的数据不受影响";
    RemedyUnimplemented: "the node is older than this program; upgrade it", "节点版本较旧，请升级";
    RemedyFileExists: "take another name, or write over it with --force", "请另取文件名，或用 --force 覆盖";
    RemedyBroken: "do not use the file: ask its exporter for it again, and compare the root key's fingerprint",
        "请勿使用该文件：请向导出单位重新索取，并核对根密钥指纹";
    RemedyInternal: "the node's log says more", "详情见节点日志";
    RemedyDeadline: "try again with a longer --deadline", "请用更长的 --deadline 重试";

    // Packs.
    PackCollected: "{} statements, {} KiB; checking", "{} 份报文，{} KiB；正在核验";
    PackDone: "{} holds {} statements and can be checked with the root key alone", "{} 含 {} 份报文，仅凭根密钥即可核验";
    PackMissing: "in the figures, but not in the file: {}", "已计入但未随附：{}";
    RootKeyWritten: "{} holds the root key of {}; its fingerprint is {}", "{} 已写入 {} 的根公钥，指纹 {}";
    Valid: "valid", "有效";
    ValidFile: "every signature and chain holds", "全部签名与授权链有效";
    TrustDomain: "trust domain", "信任域";
    RootKey: "root key", "根密钥";
    Exported: "exported", "导出";
    ExportedBy: "{} by {}", "{}，由 {} 导出";
    Statements: "statements", "报文数";
    Totals: "totals", "合计";
    TotalsRecomputed: "{} added up again from their parts", "{} 项已逐级重新相加";
    TotalsUnexplained: "{}, {} not: parts are withheld or not in the file", "{}，{} 项无法重算：部分数据未公开或未随附";
    SignedAt: "signed", "签名时间";
    SigningKey: "key", "密钥";
    WitnessedBy: "witnessed by", "见证单位";
    NotWitnessed: "not witnessed", "未见证";
    SealedType: "{} (body sealed to its readers)", "{}（正文已加密，仅限收件方阅读）";
    RevokedBy: "revoked by", "吊销单位";
    RevokedSince: "nothing believed since", "自此不予采信";
    RevocationRemark: "remark", "备注";
    RevocationVoid: "void: no right, or a key that had been revoked", "无效：无权吊销，或所用密钥已被吊销";
    RevocationBeside: "not in the file", "不在文件中";
    RevocationLeftOut: "older than the export, but not in the file", "早于导出时间，但不在文件中";
    NoRevocations: "nobody was revoked", "无吊销记录";
    RevocationsWritten: "wrote {}: {} revocations", "已写入 {}：{} 条吊销记录";
    RevocationsUnsaid: "the exporter does not say which revocations it held; compare with a newer list (--revocations)", "导出单位未说明其掌握的吊销记录；请用较新的清单核对（--revocations）";
    RevocationsOthers: "the exporter held {} other revocations, which it says concern nobody here; compare with a list (--revocations)", "导出单位另掌握 {} 条吊销记录，据其称与本文件无关；请用清单核对（--revocations）";
    RevocationsKnown: "the {} other revocations that the exporter held are all in the list beside the file", "导出单位另掌握的 {} 条吊销记录均在随附清单中";
    Resting: "granted with a key of {} that was revoked later, older by its own date alone: {}", "由 {} 其后被吊销的密钥授权，仅凭自述日期早于吊销：{}";
    Chain: "chain", "授权链";
    Withheld: "withheld", "未公开";
    NoStatements: "nothing of that unit or depth is in the file", "文件中没有该单位或该层级的报文";
    StatementType: "type", "类型";
    // People.
    Account: "account", "账号";
    Person: "person", "姓名";
    Roles: "roles", "角色";
    RolesState: "state", "状态";
    LastLogin: "last login", "最近登录";
    DeputyOf: "{} (for {})", "{}（代 {}）";
    NoAccounts: "no accounts", "没有账号";
    NoAccountsYet: "this host has no accounts yet; its own user and root may do everything",
        "本机尚无账号；运行节点的用户和 root 可执行全部操作";
    AskName: "name", "账号";
    AskPassword: "password of {}", "{} 的密码";
    AskNewPassword: "new password of {}", "{} 的新密码";
    AskAgain: "again", "再次输入";
    AskCode: "code that the app of {} shows", "{} 的动态口令";
    AskActivation: "activation code", "激活码";
    Scan: "{}: add this to the authenticator app; it is not shown again",
        "{}：请将以下内容加入动态口令应用；仅显示一次";
    SetUpDone: "the three administrators exist; from now on everybody logs in: lianxi login",
        "三名管理员已设立；此后请登录：lianxi login";
    Activated: "{} is ready; log in with: lianxi login {}", "{} 已激活；登录：lianxi login {}";
    PasswordChanged: "the password of {} is changed; all its sessions have ended",
        "{} 的密码已修改；其会话均已结束";
    LoggedIn: "logged in as {} until {} at the latest", "{} 已登录，最迟至 {}";
    LoggedOut: "logged out", "已退出登录";
    ActivationHint: "activation code of {}, for 72 hours; the person runs: lianxi account activate {}",
        "{} 的激活码，72 小时内有效；由本人执行：lianxi account activate {}";
    RoleGranted: "{} holds {}", "{} 已获角色 {}";
    RoleWithdrawn: "{} holds {} no longer", "{} 的角色 {} 已收回";
    AccountLocked: "{} is locked, its sessions have ended", "{} 已锁定，会话已结束";
    AccountUnlocked: "{} is unlocked", "{} 已解锁";
    HandedOver: "handed over to {}: acts waiting {}, heads stood in for {}; ended: tokens {}, sessions {}",
        "已移交 {}：待审批 {}，代理 {}；已终止：令牌 {}，会话 {}";
    WouldHandOver: "would hand over to {}: acts waiting {}, heads stood in for {}; would end: tokens {}, sessions {}",
        "将移交 {}：待审批 {}，代理 {}；将终止：令牌 {}，会话 {}";
    Delegated: "{} stands in for you from {} until {}", "{} 自 {} 至 {} 代行职责";
    Recalled: "delegations ended: {}", "已终止代理 {} 项";
    TokenShownOnce: "token {} works until {}; it is not shown again", "令牌 {} 有效期至 {}；仅显示一次";
    TokenEnded: "token {} has ended", "令牌 {} 已终止";
    NoTokens: "no tokens", "没有令牌";
    PersonNumber: "number", "编号";
    Ends: "ends", "到期";
    Act: "act", "操作";
    PersonSubject: "about", "对象";
    AskedBy: "asked by", "申请人";
    DecidedBy: "decided by", "审批人";
    NoApprovals: "nothing waits for a second person", "没有待审批的操作";
    ApprovalDone: "{} confirmed and done", "{} 已确认并执行";
    ApprovalRefused: "{} refused", "{} 已驳回";

    // Demo.
    DemoDirectory: "{} hosts, {} units, in {}", "{} 台主机，{} 个单位，位于 {}";
    DemoResumed: "goes on with the federation that is there", "继续使用已有的联合体";
    DemoRoot: "{} is up and holds the root key", "{} 已启动并持有根密钥";
    DemoHosts: "{} of {} hosts up at level {}", "{}／{} 台主机已启动（{}）";
    DemoCommunities: "{} of {} communities joined over their streets' hosts", "{}／{} 个社区已通过街道主机加入";
    DemoDesks: "{} desks stand ready", "{} 个承办单位已设立";
    DemoCatalogue: "catalogue {} in force at all {} units", "目录 {} 已在全部 {} 个单位生效";
    DemoImported: "{}: {} rows kept by {} hosts, {} rejected", "{}：{} 行已由 {} 台主机保存，拒收 {}";
    DemoPublished: "{} reported: coverage {} of {}", "{} 已汇总：已报 {}／{}";
    DemoNotice: "notice {}: {} of {} receipts validated", "任务 {}：{}／{} 已校验";
    DemoWhistle: "whistle {}: {}", "吹哨 {}：{}";
    DemoPulled: "pulled {} units, {} of {} included", "已调取 {} 个单位，已报 {}／{}";
    DemoWitnessed: "{} of {} journals witnessed by a neighbour", "{}／{} 份存证日志已由相邻单位见证";
    DemoPack: "{} holds {} signed reports", "{} 含 {} 份签名汇总";
    DemoVerify: "to check it with the root key alone: {}", "仅凭根密钥核验：{}";
    DemoStopping: "stopping {} processes", "正在停止 {} 个进程";
    DemoStopped: "stopped", "已停止";
    DemoEnded: "the process of {} ended; start it again with: {}", "{} 的进程已结束；重新启动：{}";
    DemoHeading: "Joint meeting of {}, {}", "{} 联席会议，{}";
    DemoWhistleLine: "Whistle {} from {} to desk {} of {}: {}, lamp {}",
        "吹哨 {0}：{1} 呼叫 {3} 的 {2}：{4}，亮灯 {5}";
    DemoNoticeLine: "Notice {} “{}” to {} units: {}", "任务 {}《{}》下达 {} 个单位：{}";
    DemoOnTime: "on time", "按时办结率";
    DemoStaysUp: "The federation stays up. In another terminal:", "联合体保持运行。可在另一终端执行：";
    DemoEnd: "Ctrl-C stops all processes.", "按 Ctrl-C 停止全部进程。";
    DemoKept: "The state stays in {}; the same command goes on with it.", "状态保留在 {}；用同一命令可继续。";
    DemoTakeAway: "The state is deleted at the end; --keep DIR keeps it.", "结束后状态将被删除；用 --keep DIR 保留。";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_there_in_both_languages() {
        for text in Text::ALL {
            assert!(!text.get(Lang::En).trim().is_empty(), "{text:?}");
            let chinese = text.get(Lang::Zh);
            if *text == Text::Is {
                continue;
            }
            let has_han =
                chinese.chars().any(|character| ('\u{4E00}'..='\u{9FFF}').contains(&character));
            assert!(has_han, "{text:?}: {chinese}");
            assert!(text.get(Lang::En).is_ascii() || text.get(Lang::En).contains('“'), "{text:?}");
        }
    }

    #[test]
    fn both_languages_show_the_same_values() {
        let marks = ["<0>", "<1>", "<2>", "<3>", "<4>", "<5>"];
        let values: Vec<&dyn Display> = marks.iter().map(|mark| mark as &dyn Display).collect();
        for text in Text::ALL {
            let (english, chinese) = (text.fill(Lang::En, &values), text.fill(Lang::Zh, &values));
            for mark in marks {
                assert_eq!(english.contains(mark), chinese.contains(mark), "{text:?} {mark}");
            }
        }
    }

    #[test]
    fn values_are_filled_in_by_their_place() {
        assert_eq!(Text::DeskAdded.fill(Lang::En, &[&"D", &"U"]), "desk D of U added");
        assert_eq!(Text::DeskAdded.fill(Lang::Zh, &[&"D", &"U"]), "已在 U 设立承办单位 D");
    }

    #[test]
    fn the_locale_decides() {
        assert_eq!(Lang::of_locale("zh_CN.UTF-8"), Lang::Zh);
        assert_eq!(Lang::of_locale("en_US.UTF-8"), Lang::En);
        assert_eq!(Lang::of_locale(""), Lang::En);
    }
}
